"""What the apps here share: counted task bodies, and the client's side that `probe.py` drives."""

from __future__ import annotations

import itertools
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWER = 42
BATCH = 1_000
_serial = itertools.count()


_thread = threading.local()


def count() -> None:
    """One more task has run in this thread.

    Each thread has an 8-byte counter in a file: written by it alone, read by the harness while it changes. A killed
    process leaves its count behind.
    """
    try:
        view = _thread.view
    except AttributeError:  # not at import: what a parent has before it forks, its children would share
        path = Path(os.environ["BENCH_COUNTERS"], f"{os.getpid()}.{next(_serial)}")
        with path.open("wb+") as file:
            file.truncate(8)
            view = _thread.view = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
    view[0] += 1


def noop() -> None:
    """Nothing, and its result is not kept."""
    count()


def answer() -> int:
    """Nothing, and its result is kept."""
    count()
    return ANSWER


def size(text: str) -> int:
    """Looks at a large argument."""
    count()
    return len(text)


def mark(path: str) -> None:
    """Writes the moment at which it ran, so that a reader sees all of it or nothing."""
    moment = time.monotonic()
    unfinished = Path(path).with_name(f"unfinished.{os.getpid()}")
    unfinished.write_text(str(moment))
    unfinished.replace(path)


class Client:
    """How a system sends and waits; what is not said here is said by the app."""

    has_bulk = False

    def caller(self, task: str) -> Callable[..., Any]:
        """What a user would call to send one task."""
        raise NotImplementedError

    def get(self, handle: Any) -> Any:
        """The result of what a caller returned."""
        raise NotImplementedError

    def many(self, task: str, number: int) -> None:
        """A bulk call, where the system has one."""
        raise NotImplementedError

    def each(self, task: str, number: int, *arguments: Any) -> None:
        """Sends one after the other."""
        send = self.caller(task)
        for _ in range(number):
            send(*arguments)

    def batches(self, task: str, number: int) -> None:
        """Sends with bulk calls of a thousand."""
        for start in range(0, number, BATCH):
            self.many(task, min(BATCH, number - start))

    def round_trips(self, task: str, number: int, expected: Any, *arguments: Any) -> list[float]:
        """Sends and waits for the result, one after the other; milliseconds each. A wrong result is an error."""
        send, times = self.caller(task), []
        for _ in range(number):
            start = time.perf_counter()
            found = self.get(send(*arguments))
            times.append((time.perf_counter() - start) * 1e3)
            check(found, expected)
        return times


def check(found: Any, expected: Any) -> None:
    """A benchmark of wrong answers is worth nothing."""
    if found != expected:
        raise RuntimeError(f"a task returned {found!r}, not {expected!r}")
