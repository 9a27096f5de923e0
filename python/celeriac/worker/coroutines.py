"""Runs `async def` tasks in a child that has no loop of its own, on one loop that is kept between tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from celeriac.exceptions import SoftTimeLimitExceeded


class CoroutineRunner:
    """One event loop for all tasks of this child, so that connection pools bound to it stay usable.

    Fields are written and read by the thread that runs tasks; a signal handler runs on that thread too.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._current: asyncio.Task[Any] | None = None
        self._step: _Interruptible | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs to the end, and gives what the coroutine returned or raised."""
        step = self._step = _Interruptible(coroutine)
        task = self._current = self._loop.create_task(step)
        try:
            return self._loop.run_until_complete(task)
        except asyncio.CancelledError as exc:
            # Not an `Exception`: let through, it would end the process.
            raise RuntimeError("the task was cancelled from within") from exc
        finally:
            self._current = self._step = None
            if not task.done():
                self._abandon(task)

    def interrupt(self) -> bool:
        """Raises the soft limit at the task's `await`.

        Returns:
            False when the task's own code is being run right now: the caller can raise in it directly.
        """
        task, step = self._current, self._step
        if task is None or step is None or task.done() or asyncio.current_task(self._loop) is task:
            return False
        step.limit_passed = True
        # Called from a signal handler, while the loop may be asleep: only this way wakes it.
        self._loop.call_soon_threadsafe(task.cancel)
        return True

    def close(self) -> None:
        """Cancels what tasks have left behind, and closes the loop."""
        if self._loop.is_closed():
            return
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        """The loop itself was interrupted: ends the task, so that it does not go on during the next one."""
        task.cancel()
        self._loop.run_until_complete(asyncio.wait([task], timeout=5.0))


class _Interruptible(Coroutine[Any, Any, Any]):
    """A coroutine in which a cancellation by the soft limit shows as `SoftTimeLimitExceeded`."""

    __slots__ = ("_inner", "limit_passed")

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner
        self.limit_passed = False

    def send(self, value: Any) -> Any:
        return self._inner.send(value)

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        if self.limit_passed and _is_cancellation(typ):
            self.limit_passed = False
            current = asyncio.current_task()
            if current is not None:
                current.uncancel()
            return self._inner.throw(SoftTimeLimitExceeded())
        if val is None and tb is None:
            return self._inner.throw(typ)
        return self._inner.throw(typ, val, tb)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._inner.__await__())


def _is_cancellation(typ: Any) -> bool:
    kind = typ if isinstance(typ, type) else type(typ)
    return issubclass(kind, asyncio.CancelledError)
