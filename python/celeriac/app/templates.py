"""What the messages of one task's calls have in common, kept so that it is written once.

A template is made of the message of an ordinary call, and serves calls that differ from it in nothing but their
arguments, ids and follow-ups. Whatever else a message depends on is compared with what it was each time.
"""

from __future__ import annotations

from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

from celeriac import _state
from celeriac._core import CallTemplate
from celeriac.serialization import json

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.routes import Target
    from celeriac.app.task import Task

__all__ = ["EMBEDDED", "TASK_OPTIONS", "VARYING", "Held", "learn", "values_of"]

#: Options that a task class can set; a call's own options win.
TASK_OPTIONS = (
    "queue",
    "routing_key",
    "exchange",
    "priority",
    "expires",
    "serializer",
    "delivery_mode",
    "compression",
    "time_limit",
    "soft_time_limit",
)
#: Options that are in the body.
EMBEDDED = frozenset({"link", "link_error", "chain", "chord"})
#: Options of calls that a template can serve.
VARYING = EMBEDDED | {"task_id", "root_id", "parent_id", "reply_to"}

_ROUTE_OPTIONS = frozenset({"queue", "exchange", "exchange_type", "routing_key", "priority"})
_PLAIN = frozenset({type(None), bool, int, float, str})

#: What a message takes from its task.
values_of = attrgetter(*TASK_OPTIONS, "ignore_result", "name")


class Held:
    """A template, and what of the app it was made of."""

    __slots__ = ("_app", "_generation", "_name", "_pid", "_sizes", "ignores", "template")

    def __init__(self, app: Celery, task: Task[..., Any], template: CallTemplate) -> None:
        self._app = app
        self._generation = app.conf._generation
        # `origin` names the process.
        self._pid = _state.pid
        self._sizes = (app.argsrepr_maxsize, app.kwargsrepr_maxsize)
        self._name = task.name
        self.template = template
        self.ignores = bool(task.ignore_result)

    def serves(self, app: Celery, name: str) -> bool:
        """Whether it is of this app as it is now, of this process, and of a task called so."""
        return (
            self._app is app
            and self._generation == app.conf._generation
            and self._pid == _state.pid
            and self._name == name
            and self._sizes == (app.argsrepr_maxsize, app.kwargsrepr_maxsize)
        )


def learn(
    app: Celery, task: Task[..., Any], target: Target, headers: dict[str, Any], properties: dict[str, Any]
) -> None:
    """Keeps a template of this message with the task, if the next one can be like it."""
    values = values_of(task)
    known, task._template_values = task._template_values, values
    # Seen twice: an attribute that is computed may be another object each time.
    if known is None or not all(map(is_, known, values)) or not all(type(value) in _PLAIN for value in values):
        return
    router = app.router
    if not (router.static and task.name in router.known and target.options.keys() <= _ROUTE_OPTIONS):
        return
    if headers["task"] != task.name or headers["expires"] is not None or "compression" in headers:
        return
    if app.conf.task_inherit_parent_priority:
        return
    shown = (app.argsrepr_maxsize, app.kwargsrepr_maxsize, app.conf.task_repr_maxlevels)
    place = (target.exchange, target.routing_key)
    made = CallTemplate(values, headers, properties, place, json.default, shown, target.declare)
    task._template = Held(app, task, made)
