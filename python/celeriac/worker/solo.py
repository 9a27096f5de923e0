"""The solo pool: the worker's main thread runs tasks itself, and listens to the engine in between."""

from __future__ import annotations

import select
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from celeriac import _core, signals
from celeriac.worker import stacks
from celeriac.worker.limits import SoftLimit
from celeriac.worker.trace import Tracer

if TYPE_CHECKING:
    from celeriac.app.base import Celery


class SoloLoop:
    """One slot on the main thread. Time limits that need a process to kill do not work here."""

    tracer_class: type[Tracer] = Tracer

    def __init__(
        self,
        app: Celery,
        node: str,
        descriptor: int,
        notices: int,
        take_notices: Callable[[], bool],
        run_timer: Callable[[], float | None],
    ) -> None:
        self._channel = _core.Child(descriptor)
        self._limit = SoftLimit(self._channel, otherwise=stacks.dump)
        self._tracer = self.tracer_class(app, node, self._channel, self._limit)
        self._node = node
        self._notices = notices
        self._take_notices = take_notices
        self._run_timer = run_timer

    def run(self) -> None:
        """Serves until the engine has stopped."""
        self.take_signal()
        signals.worker_process_init.send(sender=self._node)
        poll = select.poll()
        poll.register(self._notices, select.POLLIN)
        poll.register(self._channel.fileno(), select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll(self._run_timer())]
            if self._notices in ready and self._take_notices():
                break
            if self._channel.fileno() in ready:
                execution = self._channel.receive(0)
                if execution is not None:
                    self._tracer.trace(execution)
                elif self._channel.stopping:
                    poll.unregister(self._channel.fileno())
        if self._limit.coroutines is not None:
            self._limit.coroutines.close()

    def take_signal(self) -> None:
        """Lets the soft limit's signal reach the task."""
        signal.signal(signal.SIGUSR1, self._limit.on_signal)
