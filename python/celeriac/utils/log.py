"""Loggers of tasks."""

from __future__ import annotations

import logging

__all__ = ["base_logger", "get_logger", "get_task_logger", "task_logger", "worker_logger"]

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
