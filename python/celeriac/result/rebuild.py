"""Results from the tuples they are stored as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac._state import app_or_default
from celeriac.result.async_result import AsyncResult
from celeriac.result.result_set import GroupResult, ResultSet

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["members", "result_from_tuple"]


def result_from_tuple(r: Any, app: Celery | None = None) -> Any:
    """A result of `((id, parent), children)`; results are given back as they are."""
    if isinstance(r, (AsyncResult, ResultSet)):
        return r
    app = app_or_default(app)
    identity, children = r
    task_id, parent = identity if isinstance(identity, (list, tuple)) else (identity, None)
    before = result_from_tuple(parent, app) if parent else None
    if children is None:
        return app.AsyncResult(task_id, parent=before)
    return GroupResult(task_id, [result_from_tuple(child, app) for child in children], parent=before, app=app)


def members(r: Any, app: Celery | None = None) -> list[Any]:
    """The results of a tuple: one of a task, and those of the members of a group."""
    result = result_from_tuple(r, app)
    if isinstance(result, ResultSet):
        return [one for member in result.results for one in members(member, app)]
    return [result]
