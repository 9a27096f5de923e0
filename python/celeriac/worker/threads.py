"""The threads pool: each slot of a child is a thread. Threads are started when they are needed."""

from __future__ import annotations

import contextvars
import ctypes
import select
import threading
from typing import TYPE_CHECKING, Any

from celeriac.worker.limits import Cancelled, soft_limit
from celeriac.worker.trace import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable

    from celeriac._core import Child, Execution
    from celeriac.app.base import Celery

#: An order for a request whose code does not run at this moment (its message is being decoded) is tried again.
RETRY_SECONDS = 0.05
#: How long threads may take to close their event loops.
JOIN_SECONDS = 5.0


class ThreadLimit:
    """Raises exceptions in the task that one thread runs.

    `running` is written by the thread, before and after the task's code; `interrupt` is called by others. What is
    raised comes when the thread next runs Python code: a call that blocks in C is not interrupted.
    """

    def __init__(self) -> None:
        self.coroutines: Any = None
        self._thread = threading.get_ident()
        # Guards the next two, so that nothing is raised in a thread that has left the task's code.
        self._lock = threading.Lock()
        self._running: int | None = None
        self._raised = False

    @property
    def running(self) -> int | None:
        """The tag of the request whose code runs in the thread."""
        return self._running

    @running.setter
    def running(self, tag: int | None) -> None:
        with self._lock:
            self._running = tag
            if self._raised:
                # It has not come yet: it must not come in the next task, or in ours.
                self._raised = False
                _raise_in(self._thread, None)

    def interrupt(self, tag: int, exception: type[BaseException]) -> bool:
        """Raises in the task; False when its code does not run now."""
        with self._lock:
            if self._running != tag:
                return False
            if self.coroutines is None or not self.coroutines.interrupt(exception):
                self._raised = True
                _raise_in(self._thread, exception)
            return True


class ThreadSlots:
    """Threads that trace requests. There is one more than is busy, up to the number of slots.

    Args:
        receive: Gives a thread its next request; None ends it. Called in the thread.
        ended: Told in the thread that a request is over.
    """

    def __init__(
        self,
        app: Celery,
        node: str,
        channel: Child,
        slots: int,
        receive: Callable[[], Execution | None],
        ended: Callable[[int], object] | None = None,
    ) -> None:
        self.slots = slots
        #: What runs `async def` tasks in these threads; each has a loop of its own unless this is given.
        self.coroutines: Any = None
        self._app, self._node, self._channel = app, node, channel
        self._receive, self._ended = receive, ended
        # Guards the next two; written by every thread.
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        # Which thread runs a request: written by that thread, read by whoever interrupts.
        self._limits: dict[int, ThreadLimit] = {}

    def grow(self) -> None:
        """Starts a thread if none is idle and there may be more."""
        with self._lock:
            if self._idle > 0 or len(self._threads) >= self.slots:
                return
            self._idle += 1
            thread = threading.Thread(target=self._serve, name="celeriac-slot", daemon=True)
            self._threads.add(thread)
        thread.start()

    def interrupt(self, tag: int, exception: type[BaseException]) -> bool:
        """Raises in a request; False when it has to be tried again."""
        limit = self._limits.get(tag)
        return limit.interrupt(tag, exception) if limit is not None else False

    def runs(self, tag: int) -> bool:
        """Whether a thread has this request."""
        return tag in self._limits

    def join(self) -> None:
        """Waits a moment for threads that were told to end."""
        for thread in tuple(self._threads):
            thread.join(JOIN_SECONDS)

    def _serve(self) -> None:
        limit = ThreadLimit()
        limit.coroutines = self.coroutines
        tracer = Tracer(self._app, self._node, self._channel, limit)
        while (execution := self._receive()) is not None:
            with self._lock:
                self._idle -= 1
            self.grow()
            self._run(tracer, limit, execution)
            with self._lock:
                self._idle += 1
                if len(self._threads) > self.slots:
                    break
        with self._lock:
            self._idle -= 1
            self._threads.discard(threading.current_thread())
        if limit.coroutines is not None and limit.coroutines is not self.coroutines:
            limit.coroutines.close()

    def _run(self, tracer: Tracer, limit: ThreadLimit, execution: Execution) -> None:
        tag = execution.tag
        self._limits[tag] = limit
        try:
            # What a task leaves in context variables is not seen by the next one.
            contextvars.Context().run(tracer.trace_one_of_many, execution)
        finally:
            del self._limits[tag]
            if self._ended is not None:
                self._ended(tag)


class ThreadLoop:
    """Serves a child of the threads pool: threads receive by themselves, the main thread hears orders."""

    def __init__(self, app: Celery, node: str, channel: Child, slots: int) -> None:
        self._channel = channel
        self._threads = ThreadSlots(app, node, channel, slots, channel.receive_one)
        # Orders that could not be carried out yet. The main thread's own.
        self._again: list[tuple[int, type[BaseException]]] = []

    def run(self) -> None:
        """Serves until the child is told to stop and has nothing left."""
        self._threads.grow()
        poll = select.poll()
        poll.register(self._channel.orders_fileno(), select.POLLIN)
        while True:
            poll.poll(RETRY_SECONDS * 1000 if self._again else None)
            for what, value in self._channel.orders():
                if what == "stop":
                    self._threads.join()
                    return
                if what == "slots":
                    self._threads.slots = value
                    self._threads.grow()
                else:
                    self._again.append((value, exception_of(what)))
            again = [order for order in self._again if not self._threads.interrupt(*order)]
            self._again = [order for order in again if self._threads.runs(order[0])]


def exception_of(order: str) -> type[BaseException]:
    """What an order of the supervisor becomes in the task."""
    return soft_limit.exception if order == "soft_limit" else Cancelled


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    what = ctypes.py_object() if exception is None else ctypes.py_object(exception)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)
