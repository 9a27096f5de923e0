"""Options of ours: what they have to say travels in one header, which Celery's clients and workers pass on unread.

A call can name them, and a task can have them as attributes; the call wins. A call without any pays for this with one
look at an empty mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.task import Task

__all__ = ["HEADER", "NONE", "OPTIONS", "Call", "add", "of_task", "write", "write_at_most_once"]

#: The name of the header: an object, each member of which belongs to one feature.
HEADER = "celeriac"
#: Each option, and the function that writes what it says: `write(call, value)`, for a value that is not None.
OPTIONS: dict[str, str] = {
    "at_most_once": "celeriac.app.own:write_at_most_once",
    "webhook": "celeriac.app.webhooks:write",
    "idempotency_key": "celeriac.app.admission:write_idempotency_key",
    "idempotency_ttl": "celeriac.app.admission:write_detail",
    "unique": "celeriac.app.admission:write_unique",
    "unique_key": "celeriac.app.admission:write_detail",
    "unique_ttl": "celeriac.app.admission:write_detail",
    "unique_turn": "celeriac.app.admission:write_detail",
    "on_duplicate": "celeriac.app.admission:write_detail",
    "debounce": "celeriac.app.admission:write_debounce",
    "debounce_max_wait": "celeriac.app.admission:write_detail",
    "throttle": "celeriac.app.admission:write_throttle",
    "global_rate_limit": "celeriac.app.limits:write_limit",
    "limit_key": "celeriac.app.limits:write_key",
    "max_concurrency": "celeriac.app.limits:write_limit",
}
#: What a task without such options has.
NONE: Mapping[str, Any] = MappingProxyType({})


class Call(NamedTuple):
    """A call on its way to be sent."""

    app: Celery
    name: str
    args: Any
    kwargs: Any
    #: None when it is called by name.
    task: Task[..., Any] | None
    #: The other options; may be changed.
    options: dict[str, Any]
    #: Ours, the task's among them.
    own: Mapping[str, Any]
    #: The members of the header; to be added to.
    members: dict[str, Any]


def add(options: dict[str, Any], members: Mapping[str, Any]) -> None:
    """Adds members to the header of a call."""
    headers = options.get("headers") or {}
    options["headers"] = {**headers, HEADER: {**(headers.get(HEADER) or {}), **members}}


def of_task(task: Task[..., Any]) -> Mapping[str, Any]:
    """Those that a task has. Functions among them are not bound to it.

    Raises:
        ImproperlyConfigured: Its webhook cannot be used.
    """
    cls, instance = type(task), vars(task)
    found = {name: instance.get(name, getattr(cls, name, None)) for name in OPTIONS}
    if found["webhook"] is not None:
        from celeriac.app import webhooks

        webhooks.check(f"task {task.name}", found["webhook"])
    return {name: value for name, value in found.items() if value is not None} or NONE


def write_at_most_once(call: Call, value: Any) -> None:
    """It is acknowledged before it begins, and not while it runs; has no meaning with late acknowledgement.

    Raises:
        TypeError: The option is no boolean.
    """
    if not isinstance(value, bool):
        raise TypeError(f"at_most_once is True or False, not {value!r}")
    if value:
        call.members["once"] = True


def write(app: Celery, name: str, args: Any, kwargs: Any, task: Task[..., Any] | None, options: dict[str, Any]) -> None:
    """Takes our options out of a call's, and adds the header.

    A call that has the header already is one that is sent again (a retry): its members stay, and the task's options
    do not write them a second time.
    """
    headers = options.get("headers") or {}
    members = dict(headers.get(HEADER) or {})
    own = {} if members or task is None else dict(task._own)
    for option in OPTIONS.keys() & options.keys():
        own[option] = options.pop(option)
    call = Call(app, name, args, kwargs, task, options, own, members)
    for option, value in own.items():
        if value is not None:
            symbol_by_name(OPTIONS[option])(call, value)
    if members:
        options["headers"] = {**(options.get("headers") or {}), HEADER: members}
