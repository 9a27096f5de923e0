"""Tasks that look now and then whether they are still wanted.

Example:
    >>> @app.task(bind=True, base=AbortableTask)
    ... def long_running(self):
    ...     for part in parts:
    ...         if self.is_aborted():
    ...             return
    ...         work(part)
    >>> result = long_running.delay()
    >>> result.abort()
"""

from __future__ import annotations

from typing import Any

from celeriac.app.task import Task
from celeriac.result import AsyncResult

__all__ = ["ABORTED", "AbortableAsyncResult", "AbortableTask"]

#: The state of a task that is not wanted any more.
ABORTED = "ABORTED"


class AbortableAsyncResult(AsyncResult[Any]):
    """The result of such a task."""

    def is_aborted(self) -> bool:
        """Whether it is not wanted any more."""
        return bool(self.state == ABORTED)

    def abort(self) -> Any:
        """Says so. The task goes on until it looks. Does nothing to one that has succeeded.

        Raises:
            NotImplementedError: Results are off, so that the task could not be told.
        """
        from celeriac.result.record import build_record

        self._client().store([build_record(self.app, self.id, ABORTED, None)])
        return None


class AbortableTask(Task[..., Any]):
    """Base class of such tasks."""

    abstract = True

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult:
        """The result of a task id."""
        return AbortableAsyncResult(task_id, app=self._get_app(), task_name=self.name, **kwargs)

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """Sends the task; its result can be aborted."""
        result = super().apply_async(*args, **kwargs)
        return self.AsyncResult(result.id) if type(result) is AsyncResult else result

    def is_aborted(self, **kwargs: Any) -> bool:
        """Whether the task that runs here (or that of the id given as `task_id`) is not wanted any more.

        Asks the result backend each time.
        """
        return self.AsyncResult(kwargs.get("task_id") or self.request.id or "").is_aborted()
