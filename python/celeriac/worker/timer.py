"""Calls at set times on the worker's main thread: what boot steps know as `worker.timer`."""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger("celery.worker")


class Entry:
    """A call to come."""

    __slots__ = ("_args", "_fun", "_kwargs", "cancelled")

    def __init__(self, fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._fun, self._args, self._kwargs = fun, args, kwargs
        self.cancelled = False

    def cancel(self) -> None:
        """Calls it no more."""
        self.cancelled = True

    def __call__(self) -> Any:
        return self._fun(*self._args, **self._kwargs)


class Timer:
    """Belongs to the main thread: calls are made there, between two notices of the engine.

    A call that takes long delays the others; the engine goes on meanwhile.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Entry, float | None]] = []
        self._numbers = itertools.count()

    def call_after(
        self, secs: float, fun: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: Any = None, priority: int = 0
    ) -> Entry:
        """Calls once, so many seconds from now."""
        return self._add(time.monotonic() + secs, Entry(fun, tuple(args), kwargs or {}), None)

    def call_repeatedly(
        self, secs: float, fun: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: Any = None, priority: int = 0
    ) -> Entry:
        """Calls every so many seconds. Calls that were missed are not made up for.

        Example:
            >>> self.entry = worker.timer.call_repeatedly(10.0, touch, (path,))
        """
        return self._add(time.monotonic() + secs, Entry(fun, tuple(args), kwargs or {}), secs)

    def cancel(self, entry: Entry) -> None:
        """Calls it no more."""
        entry.cancel()

    def clear(self) -> None:
        """Forgets all calls."""
        self._waiting.clear()

    def run_due(self) -> float | None:
        """Makes the calls that are due.

        Returns:
            Milliseconds until the next one; None when there is none.
        """
        while self._waiting:
            at, _, entry, every = self._waiting[0]
            now = time.monotonic()
            if at > now and not entry.cancelled:
                return (at - now) * 1000
            heapq.heappop(self._waiting)
            if entry.cancelled:
                continue
            try:
                entry()
            except Exception as exc:
                logger.error("Timer call %r raised: %r", entry._fun, exc, exc_info=True)
            if every is not None:
                self._add(time.monotonic() + every, entry, every)
        return None

    def _add(self, at: float, entry: Entry, every: float | None) -> Entry:
        heapq.heappush(self._waiting, (at, next(self._numbers), entry, every))
        return entry
