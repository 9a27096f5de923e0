"""A pool child: receives requests, has them traced, until it is told to stop."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

from celeriac import signals
from celeriac.app import log
from celeriac.worker import batches, pools, process
from celeriac.worker.limits import SoftLimit
from celeriac.worker.patched import end_of_child
from celeriac.worker.trace import Tracer

if TYPE_CHECKING:
    from celeriac._core import Child
    from celeriac.app.base import Celery

#: Collections of the youngest generation come this rarely at least. What was there before the fork is frozen,
#: and what a task leaves behind dies by reference count.
_GC_THRESHOLD = 10_000


class ChildServer:
    """Runs children of one app. Made before the fork, so that a child has nothing left to prepare.

    Calling it is what the fork server does in a new process.
    """

    def __init__(
        self, app: Celery, node: str, log_options: log.LogOptions, pool: str = "prefork", slots: int = 1
    ) -> None:
        # Imported here, and not in the child: that would cost each of them milliseconds.
        from celeriac import _core

        self._core = _core
        self._app = app
        self._node = node
        self._log_options = log_options
        self._slots = slots
        self._make_loop = pools.loop_maker(pool) if pool in pools.SEVERAL_SLOTS else None

    def __call__(self, descriptor: int, number: int) -> int:
        """Serves the requests of one socket.

        Returns:
            The exit code of the process.
        """
        log.enter_child(self._log_options, number)
        _prepare_process()
        process.set_title(self._node, number)
        signals.worker_process_init.send(sender=self._node)
        code = 0
        try:
            batches.slots = 1 if self._make_loop is None else self._slots
            if self._make_loop is None:
                self._serve_one_slot(descriptor)
            else:
                channel = self._core.Child(descriptor, several=True)
                self._make_loop(self._app, self._node, channel, self._slots).run()
        except SystemExit as exc:  # A task ended its process: as with Celery, that is a lost process.
            code = exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
        finally:
            signals.worker_process_shutdown.send(sender=self._node, pid=os.getpid(), exitcode=code)
            end_of_child()
        return code

    def _serve_one_slot(self, descriptor: int) -> None:
        # Tells the supervisor that the child is set up, so it comes after the handlers of `worker_process_init`.
        channel = self._core.Child(descriptor)
        limit = SoftLimit(channel)
        signal.signal(signal.SIGUSR1, limit.on_signal)
        try:
            main_loop(channel, Tracer(self._app, self._node, channel, limit))
        finally:
            if limit.coroutines is not None:
                limit.coroutines.close()


def main_loop(channel: Child, tracer: Tracer) -> None:
    """One slot: one request at a time, in the order in which they come."""
    receive, trace = channel.receive, tracer.trace
    while True:
        execution = receive()
        if execution is not None:
            trace(execution)
        elif channel.stopping:
            return


def _prepare_process() -> None:
    # What a signal to the process group means is the supervisor's decision; a task runs to its end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, process.take_no_notice)
    first, second, third = gc.get_threshold()
    if 0 < first < _GC_THRESHOLD:
        gc.set_threshold(_GC_THRESHOLD, second, third)
    # `random` seeds itself after a fork; numpy's global generator would give the same numbers in every child.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
