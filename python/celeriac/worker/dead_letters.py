"""What a worker's own process does when a message becomes a dead letter."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celeriac import signals

if TYPE_CHECKING:
    from celeriac._core import Execution
    from celeriac.app.base import Celery

__all__ = ["arrived"]

logger = logging.getLogger("celery.worker.consumer")

#: Between reason, error and traceback, as the engine tells of them.
_SEPARATOR = "\x1f"


def arrived(app: Celery, execution: Execution, told: str) -> None:
    """Tells whoever wants to know. The message is on its way into the store then; a crash in that moment repeats it.

    Args:
        app: Whose worker.
        execution: The message.
        told: Reason, error and traceback.
    """
    reason, error, traceback = (*told.split(_SEPARATOR, 2), "", "")[:3]
    headers = _headers(execution)
    name, task_id = headers.get("task"), headers.get("id")
    signals.task_dead_lettered.send(
        sender=app.tasks.get(name) if isinstance(name, str) else None,
        task_id=task_id,
        name=name,
        reason=reason,
        error=error,
        traceback=traceback or None,
        queue=execution.queue,
        message=execution,
    )


def _headers(execution: Execution) -> dict[str, Any]:
    try:
        return execution.headers
    except ValueError:
        # That may be why it is dead.
        return {}
