"""Workflows of no-op tasks, on Celery and on celeriac: BENCH_SYSTEM says on which. Run as a program it times them."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

library = importlib.import_module(os.environ["BENCH_SYSTEM"])
app = library.Celery("canvas_app", broker=os.environ["BENCH_URL"], backend=os.environ["BENCH_URL"])
app.conf.update(broker_connection_retry_on_startup=True)


@app.task(name="noop")
def noop(*given: Any) -> None:
    """Does nothing."""


@app.task(name="count")
def count(results: list[Any]) -> int:
    """How many there are."""
    return len(results)


def chord(parts: int) -> Any:
    """A chord of no-op parts; its body counts them."""
    return library.chord((noop.si() for _ in range(parts)), count.s())


def chain(steps: int) -> Any:
    """A chain of no-op steps."""
    return library.chain(*(noop.si() for _ in range(steps)))


def main(kind: str, size: int) -> None:
    """Times one workflow after a first one of three that warms everything up."""
    make = {"chord": chord, "chain": chain}[kind]
    make(3).apply_async().get(timeout=60)
    cpu, began = time.process_time(), time.perf_counter()
    workflow = make(size)
    result = workflow.apply_async()
    sent = time.perf_counter()
    value = result.get(timeout=300)
    ended = time.perf_counter()
    if kind == "chord":
        assert value == size, value
    print(json.dumps({"s": ended - began, "to send": sent - began, "client CPU": time.process_time() - cpu}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
