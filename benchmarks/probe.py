"""The client's side of a measurement; runs in the measured system's own environment, prints one JSON value."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWER = 42
LARGE = 1_000_000


def client() -> Any:
    """The client of the app that is measured."""
    return importlib.import_module(os.environ["BENCH_APP"]).client


def cpu_seconds() -> float:
    """CPU of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def fill(task: str, number: str) -> None:
    """Puts that many into the queue, the quickest way the system has."""
    sender = client()
    (sender.batches if sender.has_bulk else sender.each)(task, int(number))


def publish(number: str) -> dict[str, float]:
    """One call a task from one thread, after a first call that connects."""
    sender = client()
    sender.each("noop", 1)
    return timed(int(number), lambda: sender.each("noop", int(number)))


def batch(number: str) -> dict[str, float] | None:
    """Bulk calls of a thousand, after a first one that connects."""
    sender = client()
    if not sender.has_bulk:
        return None
    sender.many("noop", 10)
    return timed(int(number), lambda: sender.batches("noop", int(number)))


def timed(number: int, run: Callable[[], None]) -> dict[str, float]:
    """Rate, and CPU for each."""
    cpu, start = cpu_seconds(), time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    return {"per_second": number / seconds, "cpu_us": (cpu_seconds() - cpu) / number * 1e6}


def latency(number: str) -> list[float]:
    """Send and wait for the result, one after the other, in milliseconds."""
    sender = client()
    sender.round_trips("answer", 10, ANSWER)
    return list(sender.round_trips("answer", int(number), ANSWER))


def large(number: str) -> list[float]:
    """The same with an argument of 1 MB."""
    sender, text = client(), "x" * LARGE
    sender.round_trips("size", 2, LARGE, text)
    return list(sender.round_trips("size", int(number), LARGE, text))


def one_way(folder: str, number: str) -> list[float]:
    """From the call to the first line of the task, in milliseconds, with pauses between."""
    sender, times = client(), []
    for index in range(int(number) + 5):
        path = Path(folder, f"one-way-{index}")
        start = time.monotonic()
        sender.each("mark", 1, str(path))
        deadline = start + 30
        while not path.exists():
            if time.monotonic() > deadline:
                raise TimeoutError("a task did not run")
            time.sleep(0.001)
        times.append((float(path.read_text()) - start) * 1e3)
        path.unlink()
        time.sleep(0.005)
    return times[5:]


def mark(path: str) -> None:
    """Sends the task that writes when it ran."""
    client().each("mark", 1, path)


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
        each.__name__: each for each in (fill, publish, batch, latency, large, one_way, mark, import_cost)
    }
    found = commands[sys.argv[1]](*sys.argv[2:])
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
