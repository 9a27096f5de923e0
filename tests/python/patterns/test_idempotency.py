"""`examples/patterns/idempotency.py`; calls that race, and keys of workers that are killed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from .conftest import Pattern, wait_until

#: Rounds of the race; 1,000 is the full size.
RACES = int(os.environ.get("RACES", "20"))
PROCESSES = 50
PROGRAMS = Path(__file__).parent


def test_a_call_that_is_made_twice_runs_once(pattern: Pattern) -> None:
    output = pattern.example("idempotency", "-c", "2")

    assert output.splitlines() == [
        "charged once: True True",
        "the same one: True",
        "refused: True",
        "after its end: True",
        "typed last: letter: Dear for all: True",
        "reminded once: True",
        "one at a time, fence above zero: True",
    ]


def with_programs(pattern: Pattern) -> Path:
    pattern.environment["PYTHONPATH"] += os.pathsep + str(PROGRAMS)
    runs = pattern.folder / "runs"
    pattern.environment["RUNS"] = str(runs)
    return runs


def test_of_fifty_processes_with_one_key_one_call_is_executed(pattern: Pattern) -> None:
    runs = with_programs(pattern)
    worker = pattern.start_worker("keys_app", "-c", "2")

    output = pattern.run(str(PROGRAMS / "keys_app.py"), "race", str(PROCESSES), str(RACES), seconds=60 + RACES * 2)

    # Each process tells what ids it got: in each round all of them the same, and one of them as the first.
    answers = [line.split() for line in output.splitlines()]
    assert len(answers) == PROCESSES * RACES
    for number in range(RACES):
        of_round = [(task_id, again) for which, task_id, again in answers if which == str(number)]
        assert len({task_id for task_id, _ in of_round}) == 1, of_round
        assert [again for _, again in of_round].count("False") == 1, of_round
    # And what a worker has really run: each once, after which there is nothing left.
    wait_until(lambda: len(runs.read_text().split()) >= RACES, "all rounds are run")
    assert worker.stop() == 0
    assert Counter(runs.read_text().split()) == {f"round-{number}": 1 for number in range(RACES)}


@pytest.mark.parametrize("task", ["unique_early", "unique_late"])
def test_a_key_is_free_when_another_worker_has_concluded_what_a_killed_one_ran(pattern: Pattern, task: str) -> None:
    runs = with_programs(pattern)
    program = str(PROGRAMS / "keys_app.py")
    pattern.environment["SLEEP"] = "60"
    first = pattern.start_worker("keys_app", "-n", "first@%h", "-c", "1")
    [held] = pattern.run(program, "send", task, "long").split()
    wait_until(lambda: runs.exists() and "long" in runs.read_text(), "it runs")
    assert pattern.run(program, "send", task, "long").split() == [held], "while it runs nothing is sent"

    first.signal(signal.SIGKILL)
    first.wait()
    pattern.environment["SLEEP"] = "0"
    second = pattern.start_worker("keys_app", "-n", "second@%h", "-c", "1")

    pattern.run(program, "wait_new", task, "long", held)
    assert second.stop() == 0


@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_a_periodic_task_does_not_overlap_itself(pattern: Pattern, overlap: str) -> None:
    runs = with_programs(pattern)
    pattern.environment["OVERLAP"] = overlap
    worker = pattern.start_worker("keys_app", "-c", "2", "-B")

    def count() -> int:
        return runs.read_text().split().count(f"end-{overlap}") if runs.exists() else 0

    wait_until(lambda: count() >= 2, "it has run twice")
    assert worker.stop() == 0

    told = runs.read_text().split()
    ended = told[: 2 * told.count(f"end-{overlap}")]
    assert ended == [f"begin-{overlap}", f"end-{overlap}"] * (len(ended) // 2), told
    # Five moments are due each second, and it takes 0.4.
    assert "was not sent: the one before is queued or runs" in worker.log
