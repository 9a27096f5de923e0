"""An app with keys for `test_idempotency`, and the programs that call it: `python keys_app.py race|send|wait_new ...`."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from typing import Any

from celeriac import Celery

app = Celery("keys_app", broker=os.environ["BROKER"], backend=os.environ["RESULT_BACKEND"])
app.conf.worker_lease_seconds = 3.0
#: How long a killed worker's message may take to be concluded elsewhere.
PATIENCE = 40.0


def ran(what: str) -> None:
    """One line a run, whatever process it is in."""
    with open(os.environ["RUNS"], "a", encoding="utf-8") as runs:
        runs.write(f"{what}\n")


@app.task
def note(what: str) -> str:
    """Runs once a key."""
    ran(what)
    return what


@app.task(unique="finished")
def unique_early(what: str) -> str:
    """Acknowledged while it runs."""
    ran(what)
    time.sleep(float(os.environ.get("SLEEP", "0")))
    return what


@app.task(unique="finished", acks_late=True, reject_on_worker_lost=True)
def unique_late(what: str) -> str:
    """Acknowledged when it has ended."""
    ran(what)
    time.sleep(float(os.environ.get("SLEEP", "0")))
    return what


@app.task
def slow(what: str) -> None:
    """Takes longer than it is until the next moment."""
    ran(f"begin-{what}")
    time.sleep(0.4)
    ran(f"end-{what}")


if overlap := os.environ.get("OVERLAP"):
    app.add_periodic_task(0.2, slow.s(overlap), name=overlap, overlap=overlap)


def racer(rounds: int, barrier: Any, answers: Any) -> None:
    """One process of the race."""
    told = []
    for number in range(rounds):
        barrier.wait(60)
        result = note.apply_async((f"round-{number}",), idempotency_key=f"race-{number}", timeout=60)
        told.append((number, result.id, result.deduplicated))
    answers.put(told)


def race(processes: int, rounds: int) -> None:
    """All processes make the same call at the same moment, round after round."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(processes), context.Queue()
    racers = [context.Process(target=racer, args=(rounds, barrier, answers)) for _ in range(processes)]
    for one in racers:
        one.start()
    for _ in racers:
        for number, task_id, again in answers.get(timeout=60 + 2 * rounds):
            print(number, task_id, again)
    for one in racers:
        one.join(30)


def wait_new(task: Any, what: str, held: str) -> None:
    """Calls until the call is not the one that is held."""
    deadline = time.monotonic() + PATIENCE
    while (result := task.delay(what)).id == held:
        if time.monotonic() > deadline:
            sys.exit(f"after {PATIENCE:g} s the key is still held by {held}")
        time.sleep(0.05)
    print(result.get(timeout=PATIENCE))


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "race":
        race(int(rest[0]), int(rest[1]))
    elif command == "send":
        print(app.tasks[f"keys_app.{rest[0]}"].delay(*rest[1:]).id)
    else:
        wait_new(app.tasks[f"keys_app.{rest[0]}"], *rest[1:])
