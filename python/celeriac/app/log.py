"""Logging of the worker: Celery's formats, colour on a terminal, one JSON object a line on request."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TextIO

from celeriac import signals
from celeriac.app.defaults import DEFAULT_PROCESS_LOG_FMT, DEFAULT_TASK_LOG_FMT
from celeriac.exceptions import ImproperlyConfigured
from celeriac.utils.imports import symbol_by_name
from celeriac.utils.log import ColorFormatter
from celeriac.utils.nodenames import node_format

#: What the parent process is called in log lines; children are `ForkPoolWorker-N`.
MAIN_PROCESS = "MainProcess"
DEFAULT_FORMAT = DEFAULT_PROCESS_LOG_FMT
DEFAULT_TASK_FORMAT = DEFAULT_TASK_LOG_FMT
TASK_LOGGER = "celery.task"
REDIRECTED_LOGGER = "celery.redirected"
#: In a format, they ask for what `celeriac.middleware.correlation` knows.
CONTEXT_FIELDS = ("%(correlation_id)", "%(log_context)")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How the worker logs; the same for supervisor and children."""

    level: int = logging.WARNING
    logfile: str | None = None
    format: str = DEFAULT_FORMAT
    task_format: str = DEFAULT_TASK_FORMAT
    datefmt: str | None = None
    task_datefmt: str | None = None
    as_json: bool = False
    colorize: bool | None = None
    hijack_root: bool = True
    redirect_stdouts: bool = True
    redirect_level: int = logging.WARNING
    node: str = ""

    @classmethod
    def from_conf(cls, conf: Any, *, node: str = "", **given: Any) -> LogOptions:
        """Settings, under what the command line gave (None: not given)."""
        options = cls(
            format=conf.worker_log_format or DEFAULT_FORMAT,
            task_format=conf.worker_task_log_format or DEFAULT_TASK_FORMAT,
            datefmt=conf.get("worker_log_datefmt"),
            task_datefmt=conf.get("worker_task_log_datefmt"),
            colorize=conf.worker_log_color,
            hijack_root=bool(conf.worker_hijack_root_logger),
            redirect_stdouts=bool(conf.worker_redirect_stdouts),
            redirect_level=level_number(conf.worker_redirect_stdouts_level or "WARNING"),
            node=node,
        )
        return replace(options, **{key: value for key, value in given.items() if value is not None})


def level_number(level: int | str) -> int:
    """`info`, `INFO`, `20` or 20 as a number.

    Raises:
        ValueError: There is no such level.
    """
    if isinstance(level, int):
        return level
    text = level.strip().upper()
    if text.isdigit():
        return int(text)
    number = {**logging.getLevelNamesMapping(), "FATAL": logging.CRITICAL}.get(text)
    if number is None:
        raise ValueError(f"there is no log level {level!r}")
    return number


class _Process:
    """What this process is to logging. Written once by each process, when it starts."""

    name = MAIN_PROCESS
    index = 0
    #: Logging was set up in it, or in the process that it was forked from.
    set_up = False


def process_name() -> str:
    """What this process is called in log lines."""
    return _Process.name


class TaskFormatter(ColorFormatter):
    """A formatter for the loggers of tasks: its format may have `%(task_name)s` and `%(task_id)s`."""

    def format(self, record: logging.LogRecord) -> str:
        _add_task(record)
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        _add_task(record)
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "process": _Process.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.task_name != "???":  # type: ignore[attr-defined]
            entry["task_name"] = record.task_name  # type: ignore[attr-defined]
            entry["task_id"] = record.task_id  # type: ignore[attr-defined]
        if (correlation := sys.modules.get("celeriac.middleware.correlation")) is not None:
            for name, value in correlation.fields().items():
                entry.setdefault(name, value)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def _add_task(record: logging.LogRecord) -> None:
    if getattr(record, "task_id", None) is not None:
        return
    from celeriac.app.current import get_current_task

    task = get_current_task()
    if task is not None and task.request.id is not None:
        record.task_id, record.task_name = task.request.id, task.name
    else:
        record.task_id = record.task_name = "???"


class _LogProxy:
    """A text stream that logs what is printed. Within a logging handler it goes to the real stream."""

    closed = False
    encoding = "utf-8"
    errors = "replace"

    def __init__(self, logger: logging.Logger, level: int, original: TextIO) -> None:
        self._logger, self._level, self._original = logger, level, original
        self._thread = threading.local()

    def write(self, data: str | bytes) -> int:
        if isinstance(data, bytes):
            data = data.decode("utf-8", "replace")
        if getattr(self._thread, "logging", False):
            return self._original.write(data)
        if text := data.rstrip():
            self._thread.logging = True
            try:
                self._logger.log(self._level, "%s", text)
            finally:
                self._thread.logging = False
        return len(data)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._original.flush()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def close(self) -> None:
        """Stays open: the stream belongs to the process."""

    def fileno(self) -> int:
        return self._original.fileno()


def setup(options: LogOptions) -> bool:
    """Sets logging up, unless a receiver of `setup_logging` has done it.

    Returns:
        Whether this function did it.
    """
    colorize = _supports_color(options)
    sent = {
        "loglevel": options.level,
        "logfile": options.logfile,
        "format": options.format,
        "colorize": colorize,
    }
    _Process.set_up = True
    logging.captureWarnings(capture=True)
    answers = signals.setup_logging.send(sender=None, **sent)
    for _, answer in answers:
        if isinstance(answer, Exception):
            _Process.set_up = False
            raise answer
    if answers:
        return False
    root = logging.getLogger()
    if options.hijack_root:
        for name in (None, "celery", TASK_LOGGER, REDIRECTED_LOGGER):
            _drop_handlers(logging.getLogger(name))
    if not _has_handler(root):
        root.addHandler(_handler(options, ColorFormatter, options.format, options.datefmt, colorize))
    root.setLevel(options.level)
    signals.after_setup_logger.send(sender=None, logger=root, **sent)

    tasks = logging.getLogger(TASK_LOGGER)
    if not _has_handler(tasks):
        tasks.addHandler(_handler(options, TaskFormatter, options.task_format, options.task_datefmt, colorize))
    tasks.setLevel(options.level)
    tasks.propagate = False
    signals.after_setup_task_logger.send(sender=None, logger=tasks, **{**sent, "format": options.task_format})
    return True


def redirect_stdouts(options: LogOptions) -> None:
    """Sends what tasks print to the log."""
    redirect_to(logging.getLogger(REDIRECTED_LOGGER), options.redirect_level)


def redirect_to(logger: logging.Logger, level: int, *, stdout: bool = True, stderr: bool = True) -> None:
    """Sends what is printed to a logger."""
    for name, wanted in (("stdout", stdout), ("stderr", stderr)):
        if wanted:
            original = getattr(sys, f"__{name}__") or open(os.devnull, "w")  # noqa: SIM115
            setattr(sys, name, _LogProxy(logger, level, original))


def enter_child(options: LogOptions, index: int) -> None:
    """In a forked child: its name, and its own file where the log file's name asks for one."""
    _Process.name = f"ForkPoolWorker-{index}"
    _Process.index = index
    _name_records()
    if options.logfile and ("%i" in options.logfile or "%I" in options.logfile):
        path = _path(options)
        for logger in (logging.getLogger(), logging.getLogger(TASK_LOGGER)):
            for old in [h for h in logger.handlers if isinstance(h, logging.handlers.WatchedFileHandler)]:
                new = logging.handlers.WatchedFileHandler(path, encoding="utf-8")
                new.setFormatter(old.formatter)
                new.filters = list(old.filters)
                logger.addHandler(new)
                logger.removeHandler(old)
                old.close()


def _name_records() -> None:
    """Has every record, whoever formats it, name this process as the pool does."""
    previous = logging.getLogRecordFactory()
    if isinstance(previous, _NamedRecords):
        previous = previous.make
    logging.setLogRecordFactory(_NamedRecords(previous))
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        multiprocessing.current_process().name = _Process.name


class _NamedRecords:
    """A factory of records that knows the process' name."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self.make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self.make(*args, **kwargs)
        record.processName = _Process.name
        return record


def emit(level: int, name: str, message: str, created: float, task_id: str | None, task_name: str | None) -> None:
    """Logs a line of the engine, with the time at which it was written there, under a name like those of Celery's."""
    if name.startswith("celeriac"):
        name = "celery" + name.removeprefix("celeriac").replace("::", ".")
    logger = logging.getLogger(name)
    if not logger.isEnabledFor(level):
        return
    record = logger.makeRecord(name, level, "", 0, message, (), None)
    record.created = created
    record.msecs = (created - int(created)) * 1000
    if task_id is not None:
        record.task_id, record.task_name = task_id, task_name
    logger.handle(record)


def _handler(
    options: LogOptions, kind: type[ColorFormatter], fmt: str, datefmt: str | None, colorize: bool
) -> logging.Handler:
    handler: logging.Handler
    if options.logfile:
        try:
            handler = logging.handlers.WatchedFileHandler(_path(options), encoding="utf-8")
        except OSError as exc:
            raise ImproperlyConfigured(f"the log file {exc.filename!r} cannot be written: {exc.strerror}") from exc
    else:
        handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(JsonFormatter() if options.as_json else kind(fmt, colorize, datefmt))
    if not options.as_json and any(name in fmt for name in CONTEXT_FIELDS):
        handler.addFilter(symbol_by_name("celeriac.middleware.correlation:LogContext")())
    return handler


def _path(options: LogOptions) -> str:
    index = _Process.index
    return node_format(options.logfile or "", options.node, i=str(index), I=f"-{index}" if index else "")


def _supports_color(options: LogOptions) -> bool:
    if options.logfile or options.as_json or "NO_COLOR" in os.environ:
        return False
    if options.colorize is False:
        return False
    return bool(sys.__stderr__ and sys.__stderr__.isatty())


def _has_handler(logger: logging.Logger) -> bool:
    return any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers)


def _drop_handlers(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)


class Logging:
    """Logging of one app, as `app.log`: what a program of its own uses to log as a worker does."""

    def __init__(self, app: Any) -> None:
        self._app = app

    @property
    def already_setup(self) -> bool:
        """Whether logging was set up in this process."""
        return _Process.set_up

    def setup(
        self,
        loglevel: int | str | None = None,
        logfile: str | None = None,
        redirect_stdouts: bool = False,
        redirect_level: int | str = "WARNING",
        colorize: bool | None = None,
        hostname: str = "",
    ) -> bool:
        """Sets logging up, once in a process.

        Returns:
            Whether a receiver of `setup_logging` has done it instead.
        """
        if self.already_setup:
            return False
        level = None if loglevel is None else level_number(loglevel)
        options = LogOptions.from_conf(self._app.conf, node=hostname, level=level, logfile=logfile, colorize=colorize)
        handled = not setup(options)
        if redirect_stdouts and not handled:
            self.redirect_stdouts(redirect_level)
        return handled

    setup_logging_subsystem = setup

    def redirect_stdouts(self, loglevel: int | str = "WARNING", name: str = REDIRECTED_LOGGER) -> None:
        """Sends what is printed to the log."""
        redirect_to(logging.getLogger(name), level_number(loglevel or "WARNING"))

    def redirect_stdouts_to_logger(
        self, logger: logging.Logger, loglevel: int | str | None = None, stdout: bool = True, stderr: bool = True
    ) -> None:
        """Sends what is printed to a logger."""
        redirect_to(logger, level_number(loglevel or "WARNING"), stdout=stdout, stderr=stderr)

    def get_default_logger(self, name: str = "celery") -> logging.Logger:
        """The logger that all of Celery's are below."""
        return logging.getLogger(name)
