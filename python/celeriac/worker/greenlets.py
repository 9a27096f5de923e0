"""The gevent pool: each slot of a child is a greenlet."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from celeriac.worker.coroutines import CoroutineRunner
from celeriac.worker.threads import RETRY_SECONDS, exception_of
from celeriac.worker.trace import Tracer

if TYPE_CHECKING:
    from celeriac._core import Child, Execution
    from celeriac.app.base import Celery


def patch() -> None:
    """Makes the standard library cooperative. Before the app is imported: modules keep what they have imported.

    Forking and signals stay the fork server's own.
    """
    from gevent import monkey

    monkey.patch_all(os=False, signal=False)


class GreenletLimit:
    """Knows which greenlets run a task's code. There is one thread, and greenlets switch only where they wait."""

    def __init__(self) -> None:
        from gevent import getcurrent
        from gevent.lock import BoundedSemaphore

        self._getcurrent = getcurrent
        self._tags: dict[Any, int] = {}
        self.coroutines = _OneAtATime(BoundedSemaphore(1))

    @property
    def running(self) -> int | None:
        """The tag of the request whose code the present greenlet runs."""
        return self._tags.get(self._getcurrent())

    @running.setter
    def running(self, tag: int | None) -> None:
        if tag is None:
            self._tags.pop(self._getcurrent(), None)
        else:
            self._tags[self._getcurrent()] = tag

    def interrupt(self, greenlet: Any, exception: type[BaseException]) -> bool:
        """Raises in the greenlet where it waits; False when it is not in a task's code."""
        if greenlet not in self._tags:
            return False
        greenlet.kill(exception, block=False)
        return True


class _OneAtATime:
    """Runs `async def` tasks: a thread can run only one asyncio loop at a time, so they take turns."""

    def __init__(self, turn: Any) -> None:
        self._turn = turn
        self._runner: CoroutineRunner | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        with self._turn:
            if self._runner is None:
                self._runner = CoroutineRunner()
            return self._runner.run(coroutine)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()


class GreenletLoop:
    """Serves a child of the gevent pool. All fields belong to its one thread."""

    def __init__(self, app: Celery, node: str, channel: Child, slots: int) -> None:
        import gevent
        from gevent.event import Event
        from gevent.socket import wait_read

        # The fork server may have had a hub, from the import of the app.
        gevent.reinit()
        self._gevent, self._wait_read = gevent, wait_read
        self._channel = channel
        self._slots = slots
        self._limit = GreenletLimit()
        self._tracer = Tracer(app, node, channel, self._limit)
        self._running: dict[int, Any] = {}
        # Set when a slot becomes free, or there is nothing more to wait for.
        self._changed = Event()
        self._stopping = False

    def run(self) -> None:
        """Serves until the child is told to stop and has nothing left."""
        self._gevent.spawn(self._obey)
        while not self._channel.stopping:
            room = self._slots - len(self._running)
            if room <= 0:
                self._changed.clear()
                self._changed.wait()
                continue
            self._wait_read(self._channel.fileno())
            for execution in self._channel.receive_many(room):
                self._running[execution.tag] = self._gevent.spawn(self._trace, execution)
        while self._running:
            self._changed.clear()
            self._changed.wait()
        self._limit.coroutines.close()

    def _trace(self, execution: Execution) -> None:
        try:
            self._tracer.trace_one_of_many(execution)
        finally:
            self._running.pop(execution.tag, None)
            self._changed.set()

    def _obey(self) -> None:
        while True:
            self._wait_read(self._channel.orders_fileno())
            for what, value in self._channel.orders():
                if what == "slots":
                    self._slots = value
                elif what != "stop":
                    self._interrupt(what, value)
                self._changed.set()

    def _interrupt(self, what: str, tag: int) -> None:
        greenlet = self._running.get(tag)
        if greenlet is not None and not self._limit.interrupt(greenlet, exception_of(what)):
            self._gevent.spawn_later(RETRY_SECONDS, self._interrupt, what, tag)
