"""The application of the fault tests: every run leaves a line when it begins and one when it ends."""

from __future__ import annotations

import os
import random
import time

from celeriac import Celery

app = Celery("fault_app", broker=os.environ["FAULT_STORE"], backend=os.environ["FAULT_STORE"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
)

_log = os.open(os.environ["FAULT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _note(what: str, number: int) -> None:
    # One write of a short line to a file opened with O_APPEND is atomic: lines of many processes do not mix.
    os.write(_log, f"{what} {number} {os.getpid()}\n".encode())


@app.task
def work(number: int) -> int:
    """Takes 2 to 12 ms."""
    _note("begin", number)
    time.sleep(random.uniform(0.002, 0.012))
    _note("end", number)
    return number


@app.task
def long(number: int, seconds: float) -> int:
    """Runs for that many seconds."""
    _note("begin", number)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.1)
    _note("end", number)
    return number


@app.task
def killer(number: int) -> None:
    """Kills its own process, as the kernel does when memory runs out."""
    _note("begin", number)
    os.kill(os.getpid(), 9)


@app.task
def noop() -> None:
    """Nothing."""
