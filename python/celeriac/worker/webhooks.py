"""Webhooks of tasks that have ended: a follow-up message, which is sent in the same commit as the result is stored.

The message is an HTTP task in a queue of its own. It holds no secret: the worker that delivers it has them.
"""

from __future__ import annotations

import json as plain_json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac import _core, states
from celeriac.app import http_calls, send
from celeriac.app.http_tasks import DONE, TASK, WEBHOOK_QUEUE
from celeriac.app.own import HEADER
from celeriac.app.webhooks import MEMBER, as_options
from celeriac.serialization import json

if TYPE_CHECKING:
    from celeriac._core import Execution, Publication
    from celeriac.app.base import Celery
    from celeriac.app.context import Context
    from celeriac.app.task import Task
    from celeriac.worker.conclude import Conclusion

logger = logging.getLogger("celery.app.trace")

#: Outcomes after which nothing more comes of a task. `rejected` is one that went wrong for good.
ENDS = frozenset({"success", "failure", "rejected", "revoked"})
#: What ends a request that was not run, or not to its end, and the exception that is recorded for it.
_ENDED_BY = {
    "lost": "WorkerLostError",
    "revoked": "TaskRevokedError",
    "timed_out": "TimeLimitExceeded",
    "unknown": "NotRegistered",
}
_BOTH = ("success", "failure")
#: A larger result is left out: receivers refuse large requests.
MAX_RESULT = 128 * 1024


class Webhooks:
    """Makes the messages of one app's webhooks, in one child."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        usual = app.conf.task_webhook
        #: What tasks have that have none of their own.
        self._usual = as_options(usual) if usual is not None else None

    def of_task(self, task: Task[..., Any] | None) -> Mapping[str, Any] | None:
        """The webhook that a task has, whoever calls it."""
        name = "" if task is None else task.name
        if name.startswith(("celery.", "celeriac.")):
            return None
        own = None if task is None else task._own.get(MEMBER)
        found = self._usual if own is None else as_options(own)
        return found if isinstance(found, Mapping) else None

    def follow(self, request: Context, usual: Mapping[str, Any] | None, kind: str, value: Any) -> Publication | None:
        """The message for a request that has ended, if it has a webhook that wants to know.

        Args:
            request: What has ended.
            usual: What `of_task` has given.
            kind: How it ended, one of `ENDS`.
            value: What it returned, or the exception.
        """
        called = (request.__dict__.get(HEADER) or {}).get(MEMBER)
        options = usual if called is None else called
        succeeded = kind == "success"
        if not isinstance(options, Mapping) or ("success" if succeeded else "failure") not in options.get("on", _BOTH):
            return None
        try:
            return self._message(request, options, kind, value)
        except Exception as exc:
            # What a stranger has put into our header must not change how a task ends.
            logger.error("The webhook of task %s cannot be sent: %r", request.id, exc)
            return None

    def after(self, execution: Execution, request: Context, outcome: Conclusion) -> Conclusion:
        """The same outcome, with the webhook of a request that was ended without being run, or after its process had died."""
        error = _ENDED_BY.get(execution.mode)
        kind, results, publications, summary, runtime = outcome
        if error is None or kind not in ENDS or kind == "success":
            return outcome
        task = self._app.tasks.get(request.task or "")
        message = self.follow(request, self.of_task(task), kind, _Ended(error, execution.detail or summary))
        return outcome if message is None else (kind, results, [*publications, message], summary, runtime)

    def _message(self, request: Context, options: Mapping[str, Any], kind: str, value: Any) -> Publication:
        url, sign = options["url"], {"id": f"msg_{request.id}", "key": options.get("secret"), "webhook": True}
        payload = _payload(request, kind, value)
        arguments = http_calls.arguments(
            url, payload, options.get("headers"), options.get("timeout"), None, "POST", sign
        )
        return send.build(
            self._app,
            TASK,
            (),
            arguments,
            task=self._app.tasks[TASK],
            queue=WEBHOOK_QUEUE,
            ignore_result=True,
            parent_id=request.id,
            root_id=request.root_id or request.id,
            argsrepr="()",
            kwargsrepr=http_calls.shown(url, "POST"),
        )


class _Ended(NamedTuple):
    """Stands for the exception of a request that nobody ran to its end."""

    type: str
    message: str


def _payload(request: Context, kind: str, value: Any) -> dict[str, Any]:
    state = {"success": states.SUCCESS, "revoked": states.REVOKED}.get(kind, states.FAILURE)
    data: dict[str, Any] = {
        "task_id": request.id,
        "task": TASK if request.task == DONE else request.task,
        "state": state,
    }
    if request.root_id and request.root_id != request.id:
        data["root_id"] = request.root_id
    if request.group:
        data["group_id"] = request.group
    if kind == "success":
        data.update(_result(value))
    else:
        ended = value if isinstance(value, _Ended) else _Ended(type(value).__qualname__, str(value))
        data["error"] = {"type": ended.type, "message": ended.message[:2000]}
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"type": "task.succeeded" if kind == "success" else "task.failed", "timestamp": now, "data": data}


def _result(value: Any) -> dict[str, Any]:
    """The value, as any JSON reader takes it; else its repr."""
    try:
        if hasattr(value, "as_tuple") and hasattr(value, "ready"):
            value = value.as_tuple()
        text = plain_json.dumps(value, default=json.default, allow_nan=False)
    except Exception:
        return {"result": None, "result_repr": _core.saferepr(value, 1024)}
    if len(text) > MAX_RESULT:
        return {"result": None, "result_omitted": f"it takes {len(text)} bytes: ask the result backend"}
    return {"result": plain_json.loads(text)}
