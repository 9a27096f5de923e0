"""The tasks of the fault tests of workflows. Every run of one leaves a line when it begins."""

from __future__ import annotations

import random
import time
from typing import Any

from fault_app import _note, app

__all__ = ["app", "collect", "step"]


def _work(number: int) -> None:
    _note("begin", number)
    time.sleep(random.uniform(0.001, 0.008))


@app.task(name="workflow_app.step")
def step(value: int, number: int) -> int:
    """Takes 1 to 8 ms, and adds one. Acknowledged early, as tasks usually are."""
    _work(number)
    return value + 1


@app.task(name="workflow_app.late_step", acks_late=True, reject_on_worker_lost=True)
def late_step(value: int, number: int) -> int:
    """The same, and run again when its worker dies."""
    _work(number)
    return value + 1


@app.task(name="workflow_app.collect")
def collect(values: list[int], number: int) -> int:
    """The body of a chord."""
    _work(number)
    return sum(values)


@app.task(name="workflow_app.told")
def told(request: Any, exc: Any, traceback: Any, number: int) -> None:
    """An error link."""
    _note("begin", number)
