"""What makes a scheduler tick: in this process (`Service`), or beside something else (`EmbeddedService`)."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

from celeriac import signals
from celeriac.beat.lease import LeaseScheduler
from celeriac.beat.scheduler import Scheduler
from celeriac.exceptions import ImproperlyConfigured
from celeriac.utils.imports import symbol_by_name
from celeriac.utils.time import humanize_seconds

__all__ = ["EmbeddedService", "Service", "scheduler_class"]

logger = logging.getLogger("celery.beat")

#: Short names of scheduler classes, as packages with schedulers declare them.
ENTRY_POINTS = "celery.beat_schedulers"


def scheduler_class(app: Any, wanted: Any = None) -> Any:
    """The class of the scheduler.

    Args:
        app: Its setting `beat_scheduler` counts when nothing is wanted; without one, the class is `LeaseScheduler`.
        wanted: A class, its path, or a short name that a package declares (`django`).

    Raises:
        ImproperlyConfigured: It cannot be imported.
    """
    wanted = wanted or app.conf.chosen("beat_scheduler") or LeaseScheduler
    return _ours(_imported(wanted) if isinstance(wanted, str) else wanted)


def _ours(cls: Any) -> Any:
    """The class, unless it belongs to the beat of Celery, which is installed beside us."""
    bases = getattr(cls, "__mro__", ())
    if Scheduler not in bases and any(base.__module__ == "celery.beat" for base in bases):
        raise ImproperlyConfigured(
            f"{cls.__module__}:{cls.__qualname__} is a scheduler of Celery's own beat: run it with `celery beat`; workers of "
            "celeriac take its messages. Or name another one with --scheduler"
        )
    return cls


def _imported(wanted: str) -> Any:
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == wanted:
            wanted = point.value
    path = wanted.replace("celery.beat:", "celeriac.beat:", 1).replace("celery.beat.", "celeriac.beat.", 1)
    try:
        return symbol_by_name(path)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ImproperlyConfigured(f"the scheduler class {wanted!r} cannot be imported: {exc}") from exc


class Service:
    """Runs a scheduler until it is stopped.

    Args:
        app: The app.
        max_interval: Seconds between two ticks, at the most.
        schedule_filename: For schedulers that keep a file.
        scheduler_cls: Class or path of the scheduler.
    """

    scheduler_cls: Any = None

    def __init__(
        self,
        app: Any,
        max_interval: float | None = None,
        schedule_filename: str | None = None,
        scheduler_cls: Any = None,
    ) -> None:
        self.app = app
        self.max_interval = max_interval or app.conf.beat_max_loop_interval
        self.scheduler_cls = scheduler_cls or self.scheduler_cls
        self.schedule_filename = schedule_filename or app.conf.beat_schedule_filename
        # Set by `stop`, which any thread may call; waited for by the thread that ticks.
        self._is_shutdown = threading.Event()
        # Set by the thread that ticks, when all is done.
        self._is_stopped = threading.Event()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.app, self.max_interval, self.schedule_filename, self.scheduler_cls)

    def start(self, embedded_process: bool = False) -> None:
        """Ticks until `stop` is called, or SystemExit or KeyboardInterrupt is raised.

        Args:
            embedded_process: It runs in a process of a worker; that is told by `beat_embedded_init`.
        """
        logger.info("beat: Starting...")
        logger.debug("beat: Ticking with max interval->%s", humanize_seconds(self.scheduler.max_interval))
        signals.beat_init.send(sender=self)
        if embedded_process:
            signals.beat_embedded_init.send(sender=self)
        try:
            while not self._is_shutdown.is_set():
                interval = self.scheduler.tick()
                if interval and interval > 0:
                    self._is_shutdown.wait(interval)
                    if self.scheduler.should_sync():
                        self.scheduler._do_sync()
        except (KeyboardInterrupt, SystemExit):
            self._is_shutdown.set()
        finally:
            self.sync()

    def sync(self) -> None:
        """Closes the scheduler."""
        self.scheduler.close()
        self._is_stopped.set()

    def stop(self, wait: bool = False) -> None:
        """Ends `start`, in whatever thread it runs.

        Args:
            wait: Come back when it has ended.
        """
        logger.info("beat: Shutting down...")
        self._is_shutdown.set()
        if wait:
            self._is_stopped.wait()

    def get_scheduler(self, lazy: bool = False) -> Any:
        """Makes the scheduler.

        Args:
            lazy: Only to be asked about itself.
        """
        return scheduler_class(self.app, self.scheduler_cls)(
            app=self.app,
            schedule_filename=self.schedule_filename,
            max_interval=self.max_interval,
            lazy=lazy,
        )

    @cached_property
    def scheduler(self) -> Any:
        """The scheduler, made on first use."""
        return self.get_scheduler()


class _Threaded(threading.Thread):
    """A service in a thread."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(name="Beat", daemon=True)
        self.app = app
        self.service = Service(app, **kwargs)

    def run(self) -> None:
        self.app.set_current()
        self.service.start()

    def stop(self) -> None:
        """Ends it, and waits for that."""
        self.service.stop(wait=True)


def _run_forked(app: Any, service: Service) -> None:
    app.after_fork()
    app.set_default()
    app.set_current()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else _leave)
    service.start(embedded_process=True)


def _leave(signum: int, frame: Any) -> None:
    raise SystemExit


class _Process:
    """A service in a process that is forked from this one, which must not use its app's client yet."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        self.service = Service(app, **kwargs)
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_run_forked, args=(app, self.service), name="Beat", daemon=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    def stop(self) -> None:
        """Asks it to end."""
        self._process.terminate()


def EmbeddedService(app: Any, max_interval: float | None = None, **kwargs: Any) -> Any:
    """A beat beside something else, with `start` and `stop`.

    Args:
        app: The app.
        max_interval: As of `Service`.
        **kwargs: As of `Service`; `thread=True`: a thread of this process instead of a process.
    """
    if kwargs.pop("thread", False):
        return _Threaded(app, max_interval=1, **kwargs)
    return _Process(app, max_interval=max_interval, **kwargs)
