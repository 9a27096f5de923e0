"""A worker that runs in a thread of the test's own process, so that tasks see what the test has patched."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celeriac._state import allow_join_result
from celeriac.utils import uuid
from celeriac.utils.dispatch import Signal
from celeriac.utils.nodenames import gethostname, nodename
from celeriac.worker import process
from celeriac.worker.setup import Setup
from celeriac.worker.solo import SoloLoop
from celeriac.worker.steps import Steps
from celeriac.worker.supervisor import Arguments, WorkController
from celeriac.worker.trace import Tracer

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["TestWorkController", "setup_app_for_worker", "start_worker"]

WORKER_LOGLEVEL = os.environ.get("WORKER_LOGLEVEL", "error")
#: Seconds in which a worker must have connected.
START_SECONDS = 30.0

test_worker_starting = Signal(name="test_worker_starting", providing_args=set())
test_worker_started = Signal(name="test_worker_started", providing_args={"worker", "consumer"})
test_worker_stopped = Signal(name="test_worker_stopped", providing_args={"worker"})

logger = logging.getLogger("celery.contrib.testing")


class _LateTasks(Tracer):
    """Runs tasks that the test has declared since the worker was started too: the engine takes them for unknown."""

    def trace(self, execution: Any) -> None:
        if execution.mode != "unknown" or execution.headers.get("task") not in self.app.tasks:
            super().trace(execution)
            return
        try:
            request = self.opener.open(execution)
            self.task(request.task or "").run(execution.tag, request)
        except Exception as exc:
            self.internal_error(execution, exc)


class _ThreadLoop(SoloLoop):
    tracer_class = _LateTasks

    def take_signal(self) -> None:
        """A thread that is not the main one can have no handler."""


class TestWorkController(WorkController):
    """A worker on a thread. Tasks run one at a time there, whichever pool is asked for; time limits are ignored, as
    Celery's solo pool does.

    Args:
        app: Its app.
        hostname: Its node name.
        queues: Names, or names with commas between them; those of the settings unless given.
        **options: As of the command line; those that have no meaning here are accepted.
    """

    # It is no class of tests.
    __test__ = False

    def __init__(
        self,
        app: Celery,
        hostname: str | None = None,
        queues: Any = None,
        exclude_queues: Any = None,
        purge: bool = False,
        **options: Any,
    ) -> None:
        arguments = Arguments(
            pool="solo",
            queues=_names(queues),
            exclude_queues=_names(exclude_queues),
            purge=purge,
            quiet=True,
            options={"without_heartbeat": True, "without_mingle": True, **options},
        )
        super().__init__(app, Setup(app=None, node=hostname or _unique_name()), arguments)
        # Set by the worker's thread when it is ready, or will never be.
        self._on_started = threading.Event()
        # What ended the thread, if it was an error. Written there, before the event is set.
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Runs until it is stopped: the thread's function."""
        try:
            self._announce_start()
            options = self._engine_options()
            _forget_limits(options)
            if self.arguments.purge:
                self._purge()
            self._run_pool(options, self._setup.log_options(self.app), Steps(self, self.app.steps))
        except BaseException as exc:
            self._failure = exc
        finally:
            self._on_started.set()

    def ensure_started(self) -> None:
        """Waits until it takes tasks.

        Raises:
            RuntimeError: It does not, within 30 seconds.
            Exception: Whatever has ended it.
        """
        if not self._on_started.wait(START_SECONDS):
            raise RuntimeError(f"the test worker did not connect to its broker within {START_SECONDS:g} seconds")
        if self._failure is not None:
            raise self._failure

    def reload(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is needed: tasks that were declared since the start are known."""

    def on_ready(self) -> None:
        """It takes tasks from now on."""
        test_worker_started.send(sender=self.app, worker=self, consumer=self._consumer)
        self._on_started.set()

    def _solo_loop(self) -> type[SoloLoop]:
        return _ThreadLoop

    def _take_signals(self) -> Callable[[], None]:
        return _nothing


@contextmanager
def start_worker(
    app: Celery,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int = WORKER_LOGLEVEL,
    logfile: str | None = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 10.0,
    shutdown_timeout: float = 10.0,
    **kwargs: Any,
) -> Iterator[TestWorkController]:
    """A worker in a thread of this process, within the block.

    Example:
        >>> with start_worker(app, perform_ping_check=False):
        ...     assert add.delay(2, 3).get(timeout=10) == 5

    Args:
        app: Its app.
        concurrency: Accepted: tasks run one at a time.
        pool: Accepted: tasks run in a thread of this process.
        loglevel: Of its log, where the app does not leave logging to the test.
        logfile: Likewise.
        perform_ping_check: Run the task `celery.ping` first; `celeriac.contrib.testing.tasks` must be imported.
        ping_task_timeout: Seconds for it.
        shutdown_timeout: Seconds in which what runs must end.
        **kwargs: As for `TestWorkController`.

    Raises:
        RuntimeError: It did not start, or did not stop, in time.
    """
    test_worker_starting.send(sender=app)
    worker: TestWorkController | None = None
    try:
        with _in_thread(app, loglevel, logfile, perform_ping_check, shutdown_timeout, kwargs) as worker:
            if perform_ping_check:
                from celeriac.contrib.testing.tasks import ping

                with allow_join_result():
                    answer = ping.delay().get(timeout=ping_task_timeout)
                if answer != "pong":
                    raise RuntimeError(f"the test worker answered {answer!r} to a ping")
            yield worker
    finally:
        test_worker_stopped.send(sender=app, worker=worker)


def setup_app_for_worker(app: Celery, loglevel: str | int, logfile: str | None) -> None:
    """Makes an app ready for a worker in this process: finalised, current, with logging unless that is left to the test."""
    app.finalize()
    app.set_current()
    app.set_default()
    app.log.setup(loglevel=loglevel, logfile=logfile)


@contextmanager
def _in_thread(
    app: Celery,
    loglevel: str | int,
    logfile: str | None,
    perform_ping_check: bool,
    shutdown_timeout: float,
    options: Mapping[str, Any],
) -> Iterator[TestWorkController]:
    from celeriac.signals import worker_ready

    setup_app_for_worker(app, loglevel, logfile)
    if perform_ping_check and "celery.ping" not in app.tasks:
        raise RuntimeError("import celery.contrib.testing.tasks first, or pass perform_ping_check=False")
    worker = TestWorkController(app=app, **options)

    def tell(sender: Any = None, **_: Any) -> None:
        if sender is worker._consumer:
            worker.on_ready()

    worker_ready.connect(tell, weak=False)
    thread = threading.Thread(target=worker.start, name="celeriac-test-worker", daemon=True)
    try:
        with _deaf_to_soft_limits():
            thread.start()
            try:
                worker.ensure_started()
                yield worker
            finally:
                _stop(worker, thread, shutdown_timeout)
    finally:
        worker_ready.disconnect(tell)


def _stop(worker: TestWorkController, thread: threading.Thread, seconds: float) -> None:
    if not thread.is_alive():
        return
    engine = worker._engine
    if engine is not None:
        engine.stop("warm")
    thread.join(seconds)
    if not thread.is_alive():
        return
    if engine is not None:
        engine.stop("cold")
    raise RuntimeError(
        f"the test worker did not end within {seconds:g} seconds: a task still runs. Give more time (shutdown_timeout)"
    )


@contextmanager
def _deaf_to_soft_limits() -> Iterator[None]:
    """The engine tells the one process of a solo pool by a signal, which would end this one."""
    handled = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    )
    if handled:
        signal.signal(signal.SIGUSR1, process.take_no_notice)
    try:
        yield
    finally:
        if handled:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def _forget_limits(options: dict[str, Any]) -> None:
    for limited in (options, *options["tasks"].values()):
        limited["time_limit"] = limited["soft_time_limit"] = None
    options["max_tasks_per_child"] = options["max_memory_per_child"] = None


def _names(queues: Any) -> tuple[str, ...]:
    if not queues:
        return ()
    return (
        tuple(queues.split(","))
        if isinstance(queues, str)
        else tuple(getattr(queue, "name", queue) for queue in queues)
    )


def _unique_name() -> str:
    """A process may have several, one after the other or at once."""
    return nodename(f"test-{os.getpid()}-{uuid()[:8]}", gethostname())


def _nothing() -> None:
    pass
