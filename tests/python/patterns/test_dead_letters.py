"""Dead letters: `examples/patterns/dead_letters.py`, and what is promised of them, by real workers on every broker."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import timedelta
from textwrap import dedent
from typing import Any

import pytest

from celeriac import Celery

from .conftest import Pattern, wait_until

TASKS = """
import os
import time
from pathlib import Path

from celeriac import Celery
from celeriac.exceptions import Reject
from celeriac.signals import task_dead_lettered

app = Celery("tasks", broker=os.environ["BROKER"], backend=os.environ["RESULT_BACKEND"])
app.conf.update(worker_lease_seconds=2, dead_letter_max_count=int(os.environ.get("MOST", 100)))
here = Path(".")


@app.task(name="quick", dead_letter=True)
def quick(n):
    if not (here / "mended").exists():
        raise ValueError(f"no {n}")
    return n


@app.task(name="slow", dead_letter=True)
def slow(n):
    # Longer than an early acknowledgement waits.
    time.sleep(0.05)
    raise ValueError(f"no {n}")


@app.task(name="late", dead_letter=True, acks_late=True)
def late(n):
    time.sleep(0.05)
    raise ValueError(f"no {n}")


@app.task(name="rejects", dead_letter=True)
def rejects(n):
    raise Reject(f"no {n}", requeue=False)


@app.task(name="hangs", dead_letter=True)
def hangs(n):
    (here / "hanging").touch()
    time.sleep(600)


@app.task(name="plain")
def plain(n):
    raise ValueError(f"no {n}")


@task_dead_lettered.connect
def note(sender, task_id, name, reason, error, traceback, queue, **_):
    with open("noted", "a") as file:
        file.write(f"{name} {task_id} {reason} {error} {queue} {getattr(sender, 'name', None)} {'ValueError' in (traceback or '')}\\n")
"""


@pytest.fixture
def tasks(pattern: Pattern) -> Any:
    (pattern.folder / "tasks.py").write_text(dedent(TASKS))
    app = Celery("tasks", broker=pattern.broker, backend=pattern.backend, set_as_current=False)
    yield app
    app.close()


def fail(app: Any, name: str, *args: Any) -> Any:
    result = app.send_task(name, args)
    with pytest.raises(Exception, match="no "):
        result.get(timeout=30)
    return result


def letters_of(app: Any, count: int, **filters: Any) -> Any:
    """A letter comes with the result where one store has both, and right after it elsewhere."""
    return wait_until(
        lambda: found if len(found := app.dead_letters.list(**filters)) >= count else None, f"{count} dead letters"
    )


def test_what_failed_is_kept_shown_and_succeeds_when_it_is_sent_again(pattern: Pattern) -> None:
    output = pattern.example("dead_letters", "-c", "1")

    lines = output.splitlines()
    assert sorted(lines[:3]) == [f"failed: order {n}: the provider does not answer" for n in (1, 2, 3)]
    assert lines[3:5] == ["3 dead letters, each after 3 tries: ConnectionError", "sent again: 3"]
    assert sorted(lines[5:8]) == ["order 1 is paid", "order 2 is paid", "order 3 is paid"]
    assert lines[8:] == ["left: 0"]


def test_a_dead_letter_says_what_happened_and_has_the_exact_message(pattern: Pattern, tasks: Any) -> None:
    pattern.start_worker("tasks", "-c", "1")
    fail(tasks, "plain", 0)
    results = {name: fail(tasks, name, 7) for name in ("quick", "slow", "late", "rejects")}

    letters = {letter.task: letter for letter in letters_of(tasks, 4)}

    assert sorted(letters) == ["late", "quick", "rejects", "slow"]
    for name, letter in letters.items():
        assert letter.task_id == results[name].id
        assert letter.queue == "celery"
        assert letter.attempts == 1
        assert letter.crashes == 0
        assert json.loads(letter.body)[0] == [7]
        assert letter.headers["task"] == name
        assert time.time() - 60 < letter.died_at.timestamp() <= time.time() + 1
    for name in ("quick", "slow", "late"):
        assert letters[name].reason == "failed"
        assert letters[name].error == "ValueError('no 7')"
        assert letters[name].exception == "ValueError"
        assert "raise ValueError" in letters[name].traceback
    assert letters["rejects"].reason == "rejected"
    assert "no 7" in letters["rejects"].error
    assert results["slow"].state == "FAILURE"
    noted = wait_until(lambda: (lines := (pattern.folder / "noted").read_text().splitlines())[3:] and lines, "signals")
    assert f"slow {results['slow'].id} failed ValueError('no 7') celery slow True" in noted
    assert len(noted) == 4


def test_letters_are_found_counted_dropped_and_exported(pattern: Pattern, tasks: Any) -> None:
    pattern.start_worker("tasks", "-c", "1")
    for n in range(3):
        fail(tasks, "quick", n)
    fail(tasks, "rejects", 9)
    letters_of(tasks, 4)
    dead = tasks.dead_letters

    assert dead.count() == 4
    assert dead.count(task="quick") == dead.count(reason="failed") == 3
    assert dead.count(queue="elsewhere") == dead.count(until=timedelta(hours=1)) == 0
    assert dead.count(since=timedelta(hours=1), queue="celery") == 4
    stats = dead.stats()
    assert stats.count == 4
    assert 0 <= stats.oldest_age < 60
    first = dead.list(limit=1)[0]
    assert dead.get(first.id) == first
    with pytest.raises(ValueError, match="there are crashed"):
        dead.list(reason="bored")
    told = tasks.control.inspect(timeout=10, limit=1).dead_letters
    # RabbitMQ does not count what somebody looks at in that moment, as this test does.
    counts = range(5) if pattern.kind == "rabbitmq" else (4,)
    wait_until(
        lambda: [one for one in told().values() if one["count"] in counts and one["buried_here"] == 4],
        "the worker's count",
    )

    lines = pattern.celeriac("-A", "tasks", "dlq", "export", "--task", "quick").splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["quick"] * 3
    assert json.loads(lines[0])["body"] == first.body.decode()
    listed = pattern.celeriac("-A", "tasks", "dlq", "list", "--reason", "rejected")
    assert "rejects[" in listed
    assert "quick" not in listed
    shown = pattern.celeriac("-A", "tasks", "dlq", "show", str(first.id))
    assert "ValueError('no 0')" in shown
    assert "raise ValueError" in shown
    assert pattern.celeriac("-A", "tasks", "dlq", "drop", "-r", "rejected", "--yes") == "Dropped 1 dead letter.\n"
    pattern.celeriac("-A", "tasks", "dlq", "drop", code=2)
    assert dead.count() == 3
    (pattern.folder / "mended").touch()
    assert pattern.celeriac("-A", "tasks", "dlq", "retry", str(first.id), "--yes") == "Retried 1 dead letter.\n"
    wait_until(lambda: tasks.AsyncResult(first.task_id).state == "SUCCESS", "the retry")
    assert dead.drop(first.id) == 0
    assert dead.drop() == 2
    assert dead.count() == 0


def test_a_task_that_is_lost_with_its_whole_worker_is_a_dead_letter(pattern: Pattern, tasks: Any) -> None:
    first = pattern.start_worker("tasks", "-c", "1", "-n", "first@here")
    result = tasks.send_task("hangs", (1,))
    wait_until((pattern.folder / "hanging").exists, "it runs")
    # Its early acknowledgement is in the store a few milliseconds later.
    time.sleep(0.5)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()

    second = pattern.start_worker("tasks", "-c", "1", "-n", "first@here")

    letter = letters_of(tasks, 1)[0]
    assert (letter.task_id, letter.reason) == (result.id, "failed")
    assert "WorkerLostError" in letter.error
    wait_until(lambda: result.state == "FAILURE", "its end")
    assert second.stop() == 0


def test_workers_keep_no_more_letters_than_they_are_told(pattern: Pattern, tasks: Any) -> None:
    pattern.start_worker("tasks", "-c", "1")
    for n in range(5):
        fail(tasks, "quick", n)
    letters_of(tasks, 5)

    pattern.environment["MOST"] = "2"
    pattern.start_worker("tasks", "-c", "1", "-n", "other@here")

    wait_until(lambda: tasks.dead_letters.count() == 2, "the oldest are gone")
    newest = ["ValueError('no 3')", "ValueError('no 4')"]
    # RabbitMQ hides those that a worker looks at.
    wait_until(lambda: [letter.error for letter in tasks.dead_letters.list()] == newest, "the newest are left")
