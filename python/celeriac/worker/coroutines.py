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
        self._step: Interruptible | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs to the end, and gives what the coroutine returned or raised."""
        step = self._step = Interruptible(coroutine)
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

    def interrupt(self, exception: type[BaseException] = SoftTimeLimitExceeded) -> bool:
        """Raises the soft limit, or another exception, at the task's `await`. Any thread may call it.

        Returns:
            False when the task's own code is being run right now: the caller can raise in it directly.
        """
        task, step = self._current, self._step
        if task is None or step is None or task.done() or asyncio.current_task(self._loop) is task:
            return False
        step.raise_at_await(exception)
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


class Interruptible(Coroutine[Any, Any, Any]):
    """A coroutine in which the next cancellation can show as another exception, such as `SoftTimeLimitExceeded`."""

    __slots__ = ("_exception", "_inner")

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner
        self._exception: type[BaseException] | None = None

    def raise_at_await(self, exception: type[BaseException] = SoftTimeLimitExceeded) -> None:
        """The caller cancels the task after this; the coroutine gets the exception instead."""
        self._exception = exception

    def send(self, value: Any) -> Any:
        return self._inner.send(value)

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        exception = self._exception
        if exception is not None and _is_cancellation(typ):
            self._exception = None
            current = asyncio.current_task()
            if current is not None:
                current.uncancel()
            return self._inner.throw(exception())
        if val is None and tb is None:
            return self._inner.throw(typ)
        return self._inner.throw(typ, val, tb)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        # Itself, so that whoever awaits it throws into it, and not into the coroutine within.
        return self

    def __iter__(self) -> Interruptible:
        return self

    def __next__(self) -> Any:
        return self._inner.send(None)


def _is_cancellation(typ: Any) -> bool:
    kind = typ if isinstance(typ, type) else type(typ)
    return issubclass(kind, asyncio.CancelledError)
