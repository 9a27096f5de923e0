"""What a worker's own process does when a message becomes a dead letter."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.app import http_calls, send
from celeriac.app.http_tasks import TASK, WEBHOOK_QUEUE
from celeriac.app.webhooks import as_options

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
    # A call of a webhook that nobody takes is not told by another one.
    if app.conf.dead_letter_webhook and not str(name).startswith("celeriac."):
        letter = {"task_id": task_id, "task": name, "reason": reason, "error": error[:2000], "queue": execution.queue}
        _call_webhook(app, app.conf.dead_letter_webhook, letter)
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


def _call_webhook(app: Celery, webhook: Any, letter: dict[str, Any]) -> None:
    """Sends the call as an HTTP task, with the retries of webhooks. It holds no arguments and no traceback."""
    options = as_options(webhook)
    if not isinstance(options, dict):
        return
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    payload = {"type": "task.dead_lettered", "timestamp": now, "data": letter}
    sign = {"id": f"msg_dead_{letter['task_id']}", "key": options.get("secret"), "webhook": True}
    try:
        arguments = http_calls.arguments(
            options["url"], payload, options.get("headers"), options.get("timeout"), None, "POST", sign
        )
        shown = http_calls.shown(options["url"], "POST")
        task = app.tasks[TASK]
        message = send.build(
            app,
            TASK,
            (),
            arguments,
            task=task,
            queue=WEBHOOK_QUEUE,
            ignore_result=True,
            argsrepr="()",
            kwargsrepr=shown,
        )
        app.client.publish([message], *send.how(app, {}), False)
    except Exception as exc:
        logger.error("the webhook of a dead letter (%s) cannot be sent: %r", letter["task_id"], exc)


def _headers(execution: Execution) -> dict[str, Any]:
    try:
        return execution.headers
    except ValueError:
        # That may be why it is dead.
        return {}
