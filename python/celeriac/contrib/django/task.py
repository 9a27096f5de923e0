"""The base class of tasks in a Django project."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from celeriac.app.task import Task

__all__ = ["DjangoTask"]


class DjangoTask(Task[..., Any]):
    """Tasks that can be sent when the transaction has been committed, so that a worker finds what they are about."""

    abstract = True

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """`delay`, once the current transaction is committed; at once without one; never if it is rolled back."""
        _on_commit(partial(self.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """`apply_async`, likewise."""
        _on_commit(partial(self.apply_async, *args, **kwargs))


def _on_commit(call: Any) -> None:
    import_module("django.db.transaction").on_commit(call)
