"""The tasks that are measured. `BENCH_SYSTEM` says whose `Celery` they are made with."""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path

Celery = importlib.import_module(os.environ["BENCH_SYSTEM"]).Celery
app = Celery("bench", broker=os.environ["BENCH_URL"], backend=os.environ["BENCH_URL"])
BARRIER_SECONDS = 3.0

executed = 0


@app.task(ignore_result=True)
def noop() -> None:
    """Nothing, and its result is not kept."""
    global executed
    executed += 1


@app.task
def noop_result() -> None:
    """Nothing, and its result is kept."""
    global executed
    executed += 1


@app.task(ignore_result=True)
def mark(path: str) -> None:
    """Writes the moment at which it ran."""
    write(path, str(time.monotonic()))


@app.task(ignore_result=True)
def gate(folder: str) -> None:
    """Holds its child until the gate is opened."""
    write(f"{folder}/gate.{os.getpid()}", "waiting")
    while not Path(folder, "open").exists():
        time.sleep(0.002)


@app.task(ignore_result=True)
def tally(folder: str) -> None:
    """Tells how many no-ops this child has run, and waits for the other child's tally."""
    write(f"{folder}/tally.{os.getpid()}", f"{time.monotonic()} {executed}")
    deadline = time.monotonic() + BARRIER_SECONDS
    while len(list(Path(folder).glob("tally.*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)


def write(path: str, text: str) -> None:
    """So that a reader sees all of it or nothing."""
    unfinished = Path(path).with_name(f"unfinished.{os.getpid()}")
    unfinished.write_text(text)
    unfinished.replace(path)
