"""`DjangoTask`: the class of tasks in a Django project."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from celeriac.app.task import Task

__all__ = ["DjangoTask"]


class DjangoTask(Task[..., Any]):
    """A task that can be sent when the database transaction is committed."""

    abstract = True

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """`delay`, once the transaction is committed; never, if it is rolled back."""
        import_module("django.db.transaction").on_commit(partial(self.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """`apply_async`, once the transaction is committed; never, if it is rolled back."""
        import_module("django.db.transaction").on_commit(partial(self.apply_async, *args, **kwargs))
