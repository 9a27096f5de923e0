"""The views of dead letters: list, retry and drop. For operators: off unless an application asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.web.answers import Answer, problem

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["MOST_BYTES", "RESOLVING", "DeadLetterViews"]

#: A larger body is refused before it is read to its end.
MOST_BYTES = 64 * 1024
#: The last part of a path -> the action that `auth` is asked about.
RESOLVING = {"retry": "retry_dead_letters", "drop": "drop_dead_letters"}
_MOST = 1000
#: What is told of a letter. Not its body and headers: they have the arguments.
_TOLD = ("id", "queue", "reason", "error", "task", "task_id", "attempts", "crashes", "sent_at", "died_at")


class DeadLetterViews:
    """Dead letters of an app's broker.

    Args:
        get_app: Gives the Celery app of a request.
        tracebacks: Tell where tasks failed, too.
    """

    def __init__(self, get_app: Callable[[], Celery], *, tracebacks: bool) -> None:
        self._get_app = get_app
        self._told = (*_TOLD, "traceback") if tracebacks else _TOLD

    def list(self, query: Mapping[str, str]) -> Answer:
        """`GET /dead-letters?queue=&reason=&task=&limit=`: the oldest that fit.

        Raises:
            OperationalError: The broker is away; likewise below.
        """
        filters = {name: query[name] for name in ("queue", "reason", "task") if query.get(name)}
        try:
            limit = int(query.get("limit") or 100)
            if not 1 <= limit <= _MOST:
                raise ValueError(f"limit is a number from 1 to {_MOST}")
            letters = self._letters().list(**filters, limit=limit)
        except ValueError as exc:
            return problem(400, str(exc))
        return Answer(200, {"dead_letters": [{name: getattr(one, name) for name in self._told} for one in letters]})

    def resolve(self, how: str, content_type: str, body: bytes) -> Answer:
        """`POST /dead-letters/retry` and `/dead-letters/drop` with `{"ids": [...]}`: how many there were."""
        # A form of another site cannot send this type without being asked for permission first.
        if content_type.partition(";")[0].strip().lower() != "application/json":
            return problem(415, 'send JSON: {"ids": [1, 2]}')
        ids = _ids(body)
        if ids is None:
            return problem(400, f'name them: {{"ids": [1, 2]}}, at most {_MOST}')
        letters = self._letters()
        count = letters.retry(ids) if how == "retry" else letters.drop(ids)
        return Answer(200, {"count": count})

    def _letters(self) -> Any:
        app: Any = self._get_app()
        return app.dead_letters


def _ids(body: bytes) -> Any:
    """The ids that a body names; None: it does not, or in another form. Never all by mistake."""
    try:
        found = json.loads(body)["ids"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(found, list) or not 0 < len(found) <= _MOST:
        return None
    return found if all(type(one) is int for one in found) else None
