"""Loggers of tasks, and a formatter with colour."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = [
    "LOG_LEVELS",
    "ColorFormatter",
    "LoggingProxy",
    "base_logger",
    "get_logger",
    "get_multiprocessing_logger",
    "get_task_logger",
    "in_sighandler",
    "mlevel",
    "reset_multiprocessing_logger",
    "set_in_sighandler",
    "task_logger",
    "worker_logger",
]

#: Names to numbers and back.
LOG_LEVELS: dict[str | int, int | str] = {
    pair[place]: pair[1 - place] for pair in logging.getLevelNamesMapping().items() for place in (0, 1)
}
LOG_LEVELS.update({"FATAL": logging.FATAL, logging.FATAL: "FATAL"})

_COLORS = {"DEBUG": "\033[1;34m", "WARNING": "\033[1;33m", "ERROR": "\033[1;31m", "CRITICAL": "\033[1;35m"}
_RESET = "\033[0m"

base_logger = logging.getLogger("celery")
task_logger = logging.getLogger("celery.task")
worker_logger = logging.getLogger("celery.worker")


def get_logger(name: str) -> logging.Logger:
    """The logger `name`, below Celery's base logger when it has no other parent."""
    logger = logging.getLogger(name)
    if logger.parent is logging.root and logger is not base_logger:
        logger.parent = base_logger
    return logger


def get_task_logger(name: str) -> logging.Logger:
    """A logger for task modules: its lines carry the task's name and id in a worker.

    Example:
        >>> logger = get_task_logger(__name__)
    """
    if name in {"celery", "celery.task"}:
        raise RuntimeError(f"logger name {name!r} is reserved")
    logger = logging.getLogger(name)
    if logger.parent is logging.root:
        logger.parent = task_logger
    return logger


class ColorFormatter(logging.Formatter):
    """Colours lines by their level."""

    def __init__(self, fmt: str | None = None, use_color: bool = True, datefmt: str | None = None) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if self.use_color and (color := _COLORS.get(record.levelname)):
            return f"{color}{text}{_RESET}"
        return text


class LoggingProxy:
    """A stream that writes to a logger.

    Args:
        logger: The logger.
        loglevel: Of each line.
    """

    mode = "w"
    name: str | None = None
    closed = False

    def __init__(self, logger: logging.Logger, loglevel: int | str | None = None) -> None:
        self.logger = logger
        self.loglevel = mlevel(loglevel or logger.level or logging.WARNING)
        self._within = False

    def write(self, data: Any) -> int:
        """Logs a text that is not empty; nothing from within logging itself."""
        text = str(data).rstrip()
        if not text or self.closed or self._within:
            return 0
        self._within = True
        try:
            self.logger.log(self.loglevel, "%s", text)
        finally:
            self._within = False
        return len(str(data))

    def writelines(self, sequence: Iterable[Any]) -> None:
        """Logs several."""
        for part in sequence:
            self.write(part)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Logs nothing from here on."""
        self.closed = True

    def isatty(self) -> bool:
        """It is no terminal."""
        return False


def mlevel(level: Any) -> int:
    """A level as a number."""
    if level and not isinstance(level, int):
        return int(LOG_LEVELS[level.upper()])
    return int(level or 0)


def get_multiprocessing_logger() -> logging.Logger:
    """The logger of multiprocessing."""
    import multiprocessing.util

    return multiprocessing.util.get_logger()


def reset_multiprocessing_logger() -> None:
    """Accepted for compatibility: children here are not multiprocessing's."""


def set_in_sighandler(value: bool) -> None:
    """Accepted for compatibility: nothing here logs in a signal handler."""


@contextmanager
def in_sighandler() -> Iterator[None]:
    """Accepted for compatibility, like the above."""
    yield
