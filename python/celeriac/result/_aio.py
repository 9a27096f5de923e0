"""Completions of the engine on an asyncio loop.

Each loop has one reader. No thread of the engine touches Python: it queues what is finished and makes a
descriptor readable, and the loop drains the queue.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from celeriac._core import Completions

__all__ = ["answer", "call", "is_expected"]

# Loop -> its reader; an entry goes with its loop. The lock is for loops in several threads.
_readers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Reader] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
# Answers that are on their way: a loop itself keeps tasks only weakly.
_running: set[asyncio.Future[None]] = set()


class _Reader:
    """Resolves the futures of one loop; used only in that loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.completions = Completions()
        self._token = 0
        self._futures: dict[int, asyncio.Future[Any]] = {}
        loop.add_reader(self.completions.fileno(), self._drain)

    def expect(self, loop: asyncio.AbstractEventLoop) -> tuple[int, asyncio.Future[Any]]:
        """A token, and the future that it will resolve."""
        self._token += 1
        token = self._token
        future: asyncio.Future[Any] = loop.create_future()
        self._futures[token] = future
        return token, future

    def forget(self, token: int) -> None:
        """Nobody waits any more. A call that is under way ends where it is."""
        if self._futures.pop(token, None) is not None:
            self.completions.cancel(token)

    def _drain(self) -> None:
        for token, result in self.completions.drain():
            self.settle(token, result)

    def expects(self, token: int) -> bool:
        """Whether somebody waits."""
        return token in self._futures

    def settle(self, token: int, result: Any) -> None:
        """Resolves the future of a token, if somebody waits; with an exception, if that is what came."""
        future = self._futures.pop(token, None)
        if future is None or future.done():
            return
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


def _reader(loop: asyncio.AbstractEventLoop) -> _Reader:
    with _lock:
        reader = _readers.get(loop)
        if reader is None:
            reader = _readers[loop] = _Reader(loop)
        return reader


def is_expected(token: int) -> bool:
    """Whether somebody on the running loop waits for this token."""
    return _reader(asyncio.get_running_loop()).expects(token)


def answer(token: int, coroutine: Coroutine[Any, Any, Any]) -> None:
    """Resolves a token by a coroutine on the running loop, where it is not the engine that answers."""
    reader = _reader(asyncio.get_running_loop())

    async def run() -> None:
        try:
            reader.settle(token, await coroutine)
        except Exception as exc:
            reader.settle(token, exc)

    task = asyncio.ensure_future(run())
    _running.add(task)
    task.add_done_callback(_running.discard)


async def call(start: Callable[[Completions, int], None]) -> Any:
    """Starts a call of the engine's and waits for it.

    Args:
        start: Given the queue and the token under which the engine reports.
    """
    loop = asyncio.get_running_loop()
    reader = _reader(loop)
    token, future = reader.expect(loop)
    try:
        start(reader.completions, token)
        return await future
    finally:
        reader.forget(token)
        # An error that is raised here holds this frame: it must not hold the error, nor what was waited for.
        del future, start
