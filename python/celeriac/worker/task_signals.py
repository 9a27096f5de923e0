"""Signals about single requests that are sent in the worker's own process: received, revoked, unknown, rejected,
dead-lettered.

The engine makes a notice of a request only for those that have a receiver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.app.context import Context
from celeriac.exceptions import NotRegistered
from celeriac.worker import dead_letters
from celeriac.worker.request import Opener, Refused

if TYPE_CHECKING:
    from celeriac._core import Execution
    from celeriac.app.base import Celery

_SIGNALS = {
    "received": signals.task_received,
    "revoked": signals.task_revoked,
    "unknown": signals.task_unknown,
    "rejected": signals.task_rejected,
    "dead": signals.task_dead_lettered,
}


def wanted(app: Celery) -> list[str]:
    """What the engine is to tell of: that which somebody receives."""
    found = [name for name, signal in _SIGNALS.items() if signal.receivers]
    return [*found, "dead"] if app.conf.dead_letter_webhook and "dead" not in found else found


class TaskSignals:
    """Sends them. Belongs to the main thread."""

    def __init__(self, app: Celery, node: str, consumer: Any) -> None:
        self._app = app
        self._node = node
        self._consumer = consumer
        self._opener = Opener(app, node)

    def send(self, event: str, execution: Execution, why: str, signum: int | None) -> None:
        """Tells the receivers of one notice."""
        if event == "rejected":
            signals.task_rejected.send(sender=self._consumer, message=execution, exc=ValueError(why))
            return
        if event == "dead":
            dead_letters.arrived(self._app, execution, why)
            return
        context = self._context(execution)
        task = self._app.tasks.get(context.task or "")
        if event == "received":
            request = ReceivedRequest(self._app, task, context, execution)
            signals.task_received.send(sender=self._consumer, request=request)
        elif event == "revoked":
            terminated = why == "terminated"
            signum = signum if terminated else None
            signals.task_revoked.send(
                sender=task, request=context, terminated=terminated, signum=signum, expired=why == "expired"
            )
        else:
            name = context.task or ""
            exc = NotRegistered(name)
            signals.task_unknown.send(sender=self._consumer, message=execution, exc=exc, name=name, id=context.id)

    def _context(self, execution: Execution) -> Context:
        try:
            return self._opener.open(execution)
        except Refused:
            # A child will refuse it; of its headers receivers may hear.
            return self._opener.unopened(execution)


class ReceivedRequest:
    """What `task_received` tells of: the request as it came, with the names that Celery's has.

    All that a task sees in `self.request` is here too.
    """

    def __init__(self, app: Celery, task: Any, context: Context, execution: Execution) -> None:
        self.app = app
        self.task = task
        self.message = execution
        self._context = context
        self.id = self.task_id = context.id
        self.name = self.task_name = self.type = context.task
        self.request_dict = context.__dict__

    @property
    def body(self) -> bytes:
        """The message's body as it came."""
        return self.message.body

    @property
    def content_type(self) -> Any:
        """The content type of the body."""
        return self.message.properties.get("content_type")

    @property
    def content_encoding(self) -> Any:
        """The encoding of the body."""
        return self.message.properties.get("content_encoding")

    @property
    def time_limits(self) -> tuple[float | None, float | None]:
        """The hard and the soft limit, in seconds."""
        return self._context.time_limit, self._context.soft_time_limit

    def info(self, safe: bool = False) -> dict[str, Any]:
        """A summary, with arguments as text."""
        context = self._context
        return {
            "id": self.id,
            "name": self.name,
            "args": context.argsrepr if safe else context.args,
            "kwargs": context.kwargsrepr if safe else context.kwargs,
            "type": self.name,
            "hostname": context.hostname,
            "time_start": None,
            "acknowledged": False,
            "delivery_info": context.delivery_info,
            "worker_pid": None,
        }

    def humaninfo(self) -> str:
        """`name[id]`."""
        return f"{self.name}[{self.id}]"

    __str__ = humaninfo

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.humaninfo()} {self._context.argsrepr} {self._context.kwargsrepr}>"
