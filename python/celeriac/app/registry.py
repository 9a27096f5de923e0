"""The tasks of an app, by name."""

from __future__ import annotations

from typing import Any

from celeriac.app.task import Task
from celeriac.exceptions import NotRegistered

__all__ = ["TaskRegistry"]


class TaskRegistry(dict[str, Task[..., Any]]):
    """Maps names to tasks.

    Raises:
        NotRegistered: On reading a name that is not there.
    """

    def __missing__(self, key: str) -> Task[..., Any]:
        raise NotRegistered(key)

    def register(self, task: Any) -> None:
        """Adds a task, or the one instance of a task class."""
        if isinstance(task, type):
            task = task()
        if not task.name:
            raise ValueError(f"task class {type(task).__name__!r} must have a name")
        self[task.name] = task

    def unregister(self, name: Any) -> None:
        """Removes a task, given itself or by name."""
        try:
            del self[getattr(name, "name", name)]
        except KeyError:
            raise NotRegistered(name) from None

    def regular(self) -> dict[str, Task[..., Any]]:
        """The user's tasks."""
        return {name: task for name, task in self.items() if not name.startswith(("celery.", "celeriac."))}
