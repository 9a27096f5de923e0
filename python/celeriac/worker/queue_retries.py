"""What the defaults of a queue mean for a task that failed: further tries, and a dead letter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac.app.task import Task
from celeriac.exceptions import Ignore, Reject, Retry

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.context import Context

__all__ = ["becomes_dead_letter", "try_again"]


def becomes_dead_letter(app: Celery, task: Task[..., Any], request: Context) -> bool:
    """Whether the supervisor keeps the message of a task that has failed for good, as `src/worker/policy.rs` says."""
    own: bool | None = getattr(task, "dead_letter", None)
    if own is None and (defaults := app.router.queues.defaults.get(request._queue or "")) is not None:
        own = defaults.dead_letter
    return bool(app.conf.task_dead_letter) if own is None else own


def try_again(app: Celery, task: Task[..., Any], request: Context, exc: Exception) -> Exception:
    """What a task's failure means in its queue: a `Retry`, or the exception as it is.

    A task that retries by its own rules, or ended on purpose, is left alone.
    """
    defaults = app.router.queues.defaults.get(request._queue or "")
    if defaults is None or defaults.max_retries is None:
        return exc
    # A task that Celery's app has made may lack these. Batches are tried again by rules of their own.
    own: Any = getattr(task, "autoretry_for", None) or getattr(task, "batch", None)
    if own or isinstance(exc, (Retry, Ignore, Reject)):
        return exc
    limit = task.max_retries if _has_own_limit(task) else defaults.max_retries
    if limit is not None and request.retries >= limit:
        return exc
    if request._follow_ups:
        # What was to follow a success (of which the result could not be encoded) does not follow.
        request._follow_ups.clear()
    delay = defaults.delay(request.retries + 1, exc)
    try:
        task.retry(exc=exc, countdown=delay, max_retries=request.retries + 1)
    except Exception as answer:
        # `Retry`; or why the next try cannot be sent.
        return answer
    return exc


def _has_own_limit(task: Task[..., Any]) -> bool:
    """Whether anybody said how often this very task is tried again; all tasks have a default."""
    if "max_retries" in vars(task):
        return True
    return any("max_retries" in vars(cls) for cls in type(task).__mro__ if cls is not Task)
