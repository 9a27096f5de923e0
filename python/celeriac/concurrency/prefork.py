"""The pool of processes, by name."""

from __future__ import annotations

from celeriac.concurrency.base import BasePool

__all__ = ["TaskPool"]


class TaskPool(BasePool):
    """The pool of processes."""

    uses_semaphore = True
