"""The application of the fault tests: every run leaves a line when it begins and one when it ends.

Workers of Celery run it too, beside ours: FAULT_LIBRARY says whose it is.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import time
from typing import Any

library = importlib.import_module(os.environ.get("FAULT_LIBRARY", "celeriac"))

app = library.Celery("fault_app", broker=os.environ["FAULT_BROKER"], backend=os.environ["FAULT_BACKEND"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
)
app.conf.update(json.loads(os.environ.get("FAULT_SETTINGS", "{}")))

_log = os.open(os.environ["FAULT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _note(what: str, number: int) -> None:
    # One write of a short line to a file opened with O_APPEND is atomic: lines of many processes do not mix.
    os.write(_log, f"{what} {number} {os.getpid()} {time.time():.3f}\n".encode())


@app.task(name="fault_app.work")
def work(number: int) -> int:
    """Takes 2 to 12 ms."""
    _note("begin", number)
    time.sleep(random.uniform(0.002, 0.012))
    _note("end", number)
    return number


@app.task(name="fault_app.long")
def long(number: int, seconds: float) -> int:
    """Runs for that many seconds."""
    _note("begin", number)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.1)
    _note("end", number)
    return number


@app.task(name="fault_app.killer")
def killer(number: int) -> None:
    """Kills its own process, as the kernel does when memory runs out."""
    _note("begin", number)
    os.kill(os.getpid(), 9)


@app.task(name="fault_app.noop")
def noop() -> None:
    """Nothing."""


@app.task(name="fault_app.noop_without_result", ignore_result=True)
def noop_without_result() -> None:
    """Nothing, and nobody asks."""


@app.task(name="fault_app.note", ignore_result=True)
def note(number: int) -> None:
    """Only leaves its line."""
    _note("begin", number)


def _wait_for_word() -> None:
    word = os.path.join(os.path.dirname(os.environ["FAULT_LOG"]), "go")
    deadline = time.monotonic() + 120
    while not os.path.exists(word) and time.monotonic() < deadline:
        time.sleep(0.02)


@app.task(name="fault_app.maybe_long", ignore_result=True)
def maybe_long(number: int) -> None:
    """Short, but for number zero, which waits for a file named `go` beside the log."""
    _note("begin", number)
    if number == 0:
        _wait_for_word()
    _note("end", number)


@app.task(name="fault_app.until_told", ignore_result=True)
def until_told(number: int) -> None:
    """Waits for that file."""
    _note("begin", number)
    _wait_for_word()
    _note("end", number)


@app.task(name="fault_app.slowed", ignore_result=True, rate_limit="1/s")
def slowed(number: int) -> None:
    """One a second."""
    _note("begin", number)


@app.task(name="fault_app.in_c")
def in_c(number: int) -> None:
    """Holds the interpreter's lock in C for longer than anyone waits."""
    _note("begin", number)
    sum(range(10**12))


@app.task(name="fault_app.fails")
def fails() -> None:
    """Fails."""
    raise ValueError("as it should")


@app.task(name="fault_app.tried_again", bind=True, max_retries=2)
def tried_again(self: Any) -> None:
    """Is tried a second time."""
    if self.request.retries == 0:
        raise self.retry(countdown=0.01)
