"""The pool of threads, by name."""

from __future__ import annotations

from celeriac.concurrency.base import BasePool

__all__ = ["TaskPool"]


class TaskPool(BasePool):
    """The pool of threads."""

    body_can_be_buffer = True
