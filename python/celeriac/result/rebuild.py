"""Results from the tuples they are stored as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac._state import app_or_default
from celeriac.result.async_result import AsyncResult

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["members", "result_from_tuple"]


def result_from_tuple(r: Any, app: Celery | None = None) -> Any:
    """A result of `((id, parent), children)`; results are given back as they are.

    Raises:
        NotImplementedError: It is the result of a group.
    """
    if isinstance(r, AsyncResult):
        return r
    identity, children = r
    task_id, parent = identity if isinstance(identity, (list, tuple)) else (identity, None)
    if children is not None:
        raise NotImplementedError(f"group {task_id}: groups come in a later version")
    return app_or_default(app).AsyncResult(task_id, parent=result_from_tuple(parent, app) if parent else None)


def members(r: Any, app: Celery | None = None) -> list[Any]:
    """The results of a tuple: one of a task, and those of the members of a group."""
    if not isinstance(r, AsyncResult) and r[1] is not None:
        return [result for member in r[1] for result in members(member, app)]
    return [result_from_tuple(r, app)]
