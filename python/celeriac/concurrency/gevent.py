"""The pool of greenlets, by name."""

from __future__ import annotations

from celeriac.concurrency.base import BasePool

__all__ = ["TaskPool"]


class TaskPool(BasePool):
    """The pool of greenlets."""

    is_green = True
    signal_safe = False
