"""Waiting for the engine where the standard library is gevent's: the greenlet waits, its thread goes on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from celeriac._core import Completions

__all__ = ["call", "is_patched"]

# Each thread has a hub, and each hub one reader.
_local = threading.local()


def is_patched() -> bool:
    """Whether the program has made sockets cooperative."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


class _Reader:
    """Gives greenlets of one hub what the engine has finished. Used in that hub's thread alone."""

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self.completions = Completions()
        self._token = 0
        self.waiting: dict[int, Any] = {}
        self._watcher = hub.loop.io(self.completions.fileno(), 1)
        # Does not keep the loop alive: what waits for it does.
        self._watcher.start(self._drain)

    def expect(self, result: Any) -> int:
        """A token under which the engine reports."""
        self._token += 1
        self.waiting[self._token] = result
        return self._token

    def _drain(self) -> None:
        for token, value in self.completions.drain():
            result = self.waiting.pop(token, None)
            if result is not None:
                result.set(value)


def call(start: Callable[[Completions, int], None]) -> Any:
    """Starts a call of the engine's, and lets other greenlets run until it has ended."""
    from gevent import get_hub
    from gevent.event import AsyncResult

    hub = get_hub()
    reader: _Reader | None = getattr(_local, "reader", None)
    if reader is None or reader.hub is not hub:
        reader = _local.reader = _Reader(hub)
    result = AsyncResult()
    token = reader.expect(result)
    try:
        start(reader.completions, token)
        value = result.get()
        if isinstance(value, BaseException):
            raise value
        return value
    finally:
        if reader.waiting.pop(token, None) is not None:
            reader.completions.cancel(token)
        # An error that is raised here holds this frame: it must not hold the error, nor what was waited for.
        value = result = start = None  # type: ignore[assignment]
