"""Loggers of tasks, and a formatter with colour."""

from __future__ import annotations

import logging

__all__ = ["ColorFormatter", "base_logger", "get_logger", "get_task_logger", "task_logger", "worker_logger"]

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
