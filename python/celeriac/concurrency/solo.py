"""The pool of the worker's own process, by name."""

from __future__ import annotations

from celeriac.concurrency.base import BasePool

__all__ = ["TaskPool"]


class TaskPool(BasePool):
    """The pool of the worker's own process."""

    body_can_be_buffer = True
