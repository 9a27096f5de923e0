"""The client's side of a measurement; runs in the measured system's own environment, prints one JSON value."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cpu_seconds() -> float:
    """CPU of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def preload(folder: str, count: str, task: str) -> None:
    """Two gates, the load, two tallies."""
    import bench_app

    for _ in range(2):
        bench_app.gate.delay(folder)
    send = getattr(bench_app, task).delay
    for _ in range(int(count)):
        send()
    for _ in range(2):
        bench_app.tally.delay(folder)


def publish(count: str) -> dict[str, float]:
    """`delay()` from one thread, after a first call that connects."""
    import bench_app

    bench_app.noop.delay()
    cpu, start = cpu_seconds(), time.perf_counter()
    for _ in range(int(count)):
        bench_app.noop.delay()
    seconds = time.perf_counter() - start
    return {"per_second": int(count) / seconds, "cpu_us": (cpu_seconds() - cpu) / int(count) * 1e6}


def latency(count: str) -> list[float]:
    """`delay().get()` one after the other, in milliseconds."""
    import bench_app

    times = []
    for number in range(int(count) + 10):
        start = time.perf_counter()
        bench_app.noop_result.delay().get(timeout=30)
        if number >= 10:
            times.append((time.perf_counter() - start) * 1e3)
    return times


def mark(path: str) -> None:
    """Sends the task that writes when it ran."""
    import bench_app

    bench_app.mark.delay(path)


def import_cost(statement: str) -> dict[str, float]:
    """Time and resident memory that `statement` adds to a bare interpreter (and this small script)."""
    before = private_kib()
    start = time.perf_counter()
    exec(statement, {})
    return {"ms": (time.perf_counter() - start) * 1e3, "mb": (private_kib() - before) / 1024}


def private_kib() -> int:
    """Resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def main() -> None:
    commands: dict[str, Callable[..., Any]] = {
        each.__name__: each for each in (preload, publish, latency, mark, import_cost)
    }
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()
