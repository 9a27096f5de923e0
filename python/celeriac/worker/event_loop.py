"""The asyncio pool: `async def` tasks are coroutines on the one event loop of a child, all others run in threads."""

from __future__ import annotations

import asyncio
import contextvars
import queue
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from celeriac.worker.coroutines import Interruptible
from celeriac.worker.request import Refused
from celeriac.worker.threads import RETRY_SECONDS, ThreadSlots, exception_of
from celeriac.worker.trace import TaskTracer, Tracer

if TYPE_CHECKING:
    from celeriac._core import Child, Execution
    from celeriac.app.base import Celery
    from celeriac.app.context import Context

#: Requests that are begun in one turn of the loop at the most, so that answers and timers have their turn.
_BATCH = 256
#: How long coroutines that tasks have left behind may take to end.
_CLOSE_SECONDS = 1.0


class LoopLimit:
    """Which coroutines were told to end. All fields belong to the loop's thread."""

    def __init__(self) -> None:
        self.running: int | None = None
        self.coroutines: Any = None
        #: Requests that were given up.
        self.cancelled: set[int] = set()
        #: Coroutines of requests that have a soft limit.
        self.steps: dict[int, Interruptible] = {}

    def guard(self, tag: int, coroutine: Any) -> Coroutine[Any, Any, Any]:
        """The same coroutine, but a soft limit can be raised in it."""
        step = self.steps[tag] = Interruptible(coroutine)
        return step


class _LoopRunner:
    """Runs what a plain function in a thread has returned, if that is a coroutine, on the loop of the child."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def interrupt(self, exception: type[BaseException]) -> bool:
        return False


class _Channel:
    """A child's channel that writes all answers of one turn of the loop together."""

    def __init__(self, channel: Child, loop: asyncio.AbstractEventLoop, flush: Any) -> None:
        self.update = channel.update
        self._later = channel.respond_later
        self._call_soon = loop.call_soon
        self._flush = flush

    def respond(
        self,
        tag: int,
        kind: str,
        results: Any,
        publications: Any,
        summary: str,
        runtime: Any,
        traceback: Any = None,
        parts: Any = None,
    ) -> None:
        if self._later(tag, kind, results, publications, summary, runtime, traceback, parts):
            self._call_soon(self._flush)


class EventLoop:
    """Serves a child of the asyncio pool.

    1. takes requests while there are free slots, in batches;
    2. makes a coroutine of each `async def` task, and gives the others to threads;
    3. passes orders on to them: a soft limit is raised at an `await`, a hard one cancels;
    4. answers once for each turn of the loop.

    All fields belong to the loop's thread.
    """

    def __init__(self, app: Celery, node: str, channel: Child, slots: int) -> None:
        self._channel = channel
        self._slots = slots
        self._loop = loop = asyncio.new_event_loop()
        self._limit = LoopLimit()
        self._tracer = Tracer(app, node, _Channel(channel, loop, self._flush), self._limit)  # type: ignore[arg-type]
        self._queue: queue.SimpleQueue[Execution] = queue.SimpleQueue()
        self._threads = ThreadSlots(app, node, channel, slots, self._queue.get, self._thread_ended)
        self._threads.coroutines = _LoopRunner(loop)
        # What runs: the task of a coroutine; None for a thread.
        self._running: dict[int, asyncio.Task[None] | None] = {}
        self._context = contextvars.copy_context()
        self._reads = False
        self._stopping = False
        self._over: asyncio.Future[None] = loop.create_future()

    def run(self) -> None:
        """Serves until the child is told to stop and has nothing left."""
        loop = self._loop
        asyncio.set_event_loop(loop)
        loop.add_reader(self._channel.orders_fileno(), self._obey)
        self._read()
        try:
            loop.run_until_complete(self._over)
        finally:
            self._close()

    def _read(self) -> None:
        if not self._reads and not self._stopping:
            self._reads = True
            self._loop.add_reader(self._channel.fileno(), self._take)

    def _pause(self) -> None:
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self._channel.fileno())

    def _take(self) -> None:
        """Begins what waits, as far as there are free slots."""
        room = self._slots - len(self._running)
        executions = self._channel.receive_many(min(room, _BATCH)) if room > 0 else ()
        for execution in executions:
            self._begin(execution)
        if len(self._running) >= self._slots or self._channel.stopping:
            # The descriptor stays readable while something waits, or for ever.
            self._pause()

    def _begin(self, execution: Execution) -> None:
        if execution.mode == "run":
            try:
                request = self._tracer.opener.open(execution)
                tracer = self._tracer.task(request.task or "")
            except Exception as exc:
                self._refuse(execution, exc)
                return
            if tracer.is_async:
                coroutine = self._trace(tracer, execution, request)
                # Not in the context of whoever has answered last, which this may be called from.
                task = self._loop.create_task(coroutine, context=self._context.copy())
                self._running[execution.tag] = task
                return
        # Plain functions, and hooks of tasks that will not run: they may block.
        self._running[execution.tag] = None
        self._queue.put(execution)
        self._threads.grow()

    def _refuse(self, execution: Execution, exc: Exception) -> None:
        if isinstance(exc, Refused):
            self._tracer.refused(execution, exc)
        else:
            self._tracer.internal_error(execution, exc)

    async def _trace(self, tracer: TaskTracer, execution: Execution, request: Context) -> None:
        tag = execution.tag
        try:
            await tracer.run_async(tag, request, self._limit, guarded=execution.soft_limit is not None)
        except asyncio.CancelledError as exc:
            if tag in self._limit.cancelled:
                # Given up: the answer is nobody's, but it frees the slot.
                self._tracer.channel.respond(tag, "ignored", (), (), "cancelled", None)
            else:
                tracer.cancelled_from_within(tag, request, exc)
        except BaseException as exc:
            # Also what would end a process: it must not end the requests beside it.
            self._tracer.failed(execution, exc)
        finally:
            self._limit.cancelled.discard(tag)
            self._limit.steps.pop(tag, None)
            self._release(tag)

    def _release(self, tag: int) -> None:
        self._running.pop(tag, None)
        if self._stopping and not self._running and not self._over.done():
            self._over.set_result(None)

    def _flush(self) -> None:
        self._channel.flush()
        self._resume()

    def _resume(self) -> None:
        if not self._reads and not self._stopping and len(self._running) < self._slots:
            self._read()
            # Often there is more already: that saves a turn.
            self._take()

    def _thread_ended(self, tag: int) -> None:
        self._loop.call_soon_threadsafe(self._thread_released, tag)

    def _thread_released(self, tag: int) -> None:
        self._release(tag)
        self._resume()

    def _obey(self) -> None:
        for what, value in self._channel.orders():
            if what == "stop":
                self._stopping = True
                self._pause()
                self._release(-1)
            elif what == "slots":
                self._slots = self._threads.slots = value
                self._resume()
            else:
                self._interrupt(what, value)

    def _interrupt(self, what: str, tag: int) -> None:
        if tag not in self._running:
            return
        # A coroutine has made its first step by now: that was scheduled before this order was read.
        task = self._running[tag]
        if task is None:
            if not self._threads.interrupt(tag, exception_of(what)):
                self._loop.call_later(RETRY_SECONDS, self._interrupt, what, tag)
        elif what == "cancel":
            self._limit.cancelled.add(tag)
            task.cancel()
        elif (step := self._limit.steps.get(tag)) is not None:
            step.raise_at_await()
            task.cancel()

    def _close(self) -> None:
        loop = self._loop
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=_CLOSE_SECONDS))
        self._channel.flush()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
