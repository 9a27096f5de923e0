"""`Beat`: the scheduler as a program, with its banner, its log and its signals."""

from __future__ import annotations

import logging
import signal
import sys
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Any

from celeriac.app import log
from celeriac.beat.service import Service
from celeriac.utils.imports import qualname
from celeriac.utils.time import humanize_seconds
from celeriac.utils.urls import without_password

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["Beat"]

logger = logging.getLogger("celery.beat")


class Beat:
    """The program.

    Args:
        max_interval: Seconds between two ticks, at the most.
        app: The app.
        loglevel: Name or number.
        logfile: Instead of standard error.
        schedule: File of schedulers that keep one (`beat_schedule_filename`).
        scheduler: Class or path of the scheduler (`beat_scheduler`).
        quiet: No banner.
        no_color: No colour in the log.
        log_json: One object a line in the log.
        **kwargs: Accepted and not used.
    """

    Service: Any = Service
    #: The app, where none is given.
    app: Any = None

    def __init__(
        self,
        max_interval: float | None = None,
        app: Celery | None = None,
        loglevel: str | int = "WARNING",
        logfile: str | None = None,
        schedule: str | None = None,
        scheduler: Any = None,
        quiet: bool = False,
        no_color: bool | None = None,
        log_json: bool = False,
        **kwargs: Any,
    ) -> None:
        from celeriac._state import app_or_default

        self.app = app_or_default(app or self.app)
        self.max_interval = max_interval
        self.loglevel = log.level_number(loglevel)
        self.logfile = logfile
        self.schedule = schedule
        self.scheduler_cls = scheduler
        self.quiet = quiet
        self.no_color = no_color
        self.log_json = log_json

    def run(self) -> None:
        """Runs it until a signal comes."""
        self.app.finalize()
        self._start(embedded=False)

    def run_embedded(self) -> None:
        """The same as a process of a worker."""
        self.app.finalize()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._start(embedded=True)

    def _start(self, *, embedded: bool) -> None:
        service = self.Service(
            app=self.app,
            max_interval=self.max_interval,
            scheduler_cls=self.scheduler_cls,
            schedule_filename=self.schedule,
        )
        if not self.quiet and sys.__stderr__ is not None:
            print(self.banner(service), file=sys.__stderr__, flush=True)
        options = log.LogOptions.from_conf(
            self.app.conf,
            level=self.loglevel,
            logfile=self.logfile,
            as_json=self.log_json or None,
            colorize=None if self.no_color is None else not self.no_color,
        )
        if log.setup(options) and options.redirect_stdouts:
            log.redirect_stdouts(options)
        signal.signal(signal.SIGTERM, self._leave)
        if not embedded:
            signal.signal(signal.SIGINT, self._leave)
        try:
            service.start(embedded_process=embedded)
        except Exception as exc:
            logger.critical("beat raised exception %s: %r", type(exc), exc, exc_info=True)
            raise

    def _leave(self, signum: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    def banner(self, service: Any) -> str:
        """What it shows of itself when it starts. Passwords in URLs are not shown."""
        from celeriac import __version__

        scheduler = service.get_scheduler(lazy=True)
        interval = scheduler.max_interval
        lines = [
            f"celeriac beat {__version__} is starting.",
            f"LocalTime -> {datetime.now().astimezone().isoformat(sep=' ', timespec='seconds')}",
            "Configuration ->",
            f"    . broker -> {without_password(self.app.broker_url_effective)}",
            f"    . scheduler -> {qualname(type(scheduler))}",
            *([scheduler.info] if scheduler.info else []),
            f"    . logfile -> {self.logfile or '[stderr]'}@%{logging.getLevelName(self.loglevel)}",
            f"    . maxinterval -> {humanize_seconds(interval)} ({interval}s)",
        ]
        return "\n".join(lines)
