"""`celery.chord_unlock`: joins a chord by looking at its header, for result backends that do not count."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac._state import allow_join_result
from celeriac.canvas.rebuild import maybe_signature
from celeriac.exceptions import ChordError, Retry
from celeriac.result.rebuild import result_from_tuple
from celeriac.result.result_set import GroupResult

if TYPE_CHECKING:
    from celeriac.app.task import Task

__all__ = ["unlock"]

logger = logging.getLogger("celeriac.app.builtins")


def unlock(
    task: Task[..., Any],
    group_id: str,
    callback: Mapping[str, Any],
    result: Iterable[Any],
    interval: float | None,
    max_retries: int | None,
    more: Mapping[str, Any],
) -> None:
    """Sends the body if the header is done; otherwise comes again.

    Args:
        task: The running task.
        group_id: The header's.
        callback: The body.
        result: The header's results, in the form in which they are stored.
        interval: Seconds until the next look.
        max_retries: How many looks there may be.
        more: What else the message said.

    Raises:
        Retry: The header is not done.
    """
    app = task._get_app()
    header = GroupResult(group_id, [result_from_tuple(item, app) for item in result], app=app)
    body = maybe_signature(callback, app=app)
    exchange_type = more.get("_chord_unlock_exchange_type")
    options = {} if exchange_type is None else {"exchange_type": exchange_type}
    try:
        if not header.ready():
            raise task.retry(countdown=interval, max_retries=max_retries, **options)
    except Retry:
        raise
    except Exception as exc:
        # Nobody will look again.
        cause = getattr(exc, "reason", None) or exc
        _fail(task, body, _error(f"chord_unlock could not be retried: {cause!r}", cause))
        raise
    try:
        with allow_join_result():
            values = header.join(timeout=app.conf.result_chord_join_timeout, propagate=True)
    except Exception as exc:
        culprit = next((one.id for one in header.results if one.failed()), None)
        why = repr(exc) if culprit is None else f"Dependency {culprit} raised {exc!r}"
        logger.error("Chord %r raised: %r", group_id, exc, exc_info=exc)
        _fail(task, body, _error(why, exc))
        return
    try:
        _follow_up(task, body, values)
    except Exception as exc:
        logger.error("Chord %r raised: %r", group_id, exc, exc_info=exc)
        _fail(task, body, _error(f"Callback error: {exc!r}", exc))


def _follow_up(task: Task[..., Any], body: Any, values: Any) -> None:
    request = task.request
    if request._follow_ups is None:
        body.apply_async((values,))
        return
    from celeriac.app import workflows

    workflows.follow_up(task._get_app(), request, body.compose_all((values,), at_most_once=True))


def _fail(task: Task[..., Any], body: Any, error: ChordError) -> None:
    """Whoever waits for the body is told why it will not be called. Outside of a worker, that is the caller."""
    end = task._get_app()._child_chord_error
    if end is None:
        raise error
    end(body, error)


def _error(why: str, cause: BaseException) -> ChordError:
    error = ChordError(why)
    error.__cause__ = cause
    return error
