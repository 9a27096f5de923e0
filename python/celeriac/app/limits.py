"""Limits that hold for all workers together: how many tasks may start in a time, and how many may run at once.

Workers ask for turns where the limits are kept (the result backend, else the broker); here is what a call says of itself,
and what can be seen to be wrong before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.own import Call
    from celeriac.app.task import Task

__all__ = ["Argument", "check", "check_task", "options_of_queues", "options_of_task", "write_key", "write_limit"]

#: The longest key.
MAX_KEY = 200
_OPTIONS = ("global_rate_limit", "max_concurrency")
_KEEPS = ("redis", "rediss", "redis+socket", "sentinel", "sqlite", "memory")


class Argument(str):
    """The name of an argument, as a task has it: a call's `limit_key` is the key itself."""

    __slots__ = ()


def check(owner: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The limits among options, as the engine takes them.

    Args:
        owner: Whose they are, for errors: `task x`.
        options: May have `global_rate_limit` (`N`, `N/s`, `N/m` or `N/h`) and `max_concurrency` (tasks).

    Raises:
        ImproperlyConfigured: One of them is of no such form.
    """
    rate, most = options.get("global_rate_limit"), options.get("max_concurrency")
    found: dict[str, Any] = {}
    if rate is not None and rate not in ("", "0", 0):
        text = str(rate)
        number, slash, unit = text.partition("/")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1e9 or (slash and unit not in {"s", "m", "h"}):
            raise ImproperlyConfigured(f"global_rate_limit {text!r} of {owner} is not N, N/s, N/m or N/h")
        if value:
            found["global_rate_limit"] = text
    if most is not None:
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= 0xFFFFFFFF:
            raise ImproperlyConfigured(f"max_concurrency of {owner} is a number of tasks, from 1; not {most!r}")
        found["max_concurrency"] = most
    return found


def check_task(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Checks what a decorator was given; gives it with the key as a task has it.

    Raises:
        ImproperlyConfigured: A limit is of no known form, or there is a key and nothing that it divides.
    """
    found = check(f"task {name}", options)
    key = options.get("limit_key")
    if key is not None and not found:
        raise ImproperlyConfigured(
            f"limit_key of task {name} divides a limit, and the task has none: "
            "give it global_rate_limit= or max_concurrency= too"
        )
    if key is not None and not (callable(key) or isinstance(key, str)):
        raise ImproperlyConfigured(
            f"limit_key of task {name} is the name of an argument or a function of the arguments"
        )
    if found and options.get("batch") is not None:
        raise ImproperlyConfigured(f"task {name} has batch= and a limit of single tasks: limit its queue instead")
    return {**options, "limit_key": Argument(key)} if isinstance(key, str) else options


def options_of_task(task: Task[..., Any]) -> dict[str, Any]:
    """The limits of a task, as the engine takes them."""
    return check(f"task {task.name}", {option: getattr(task, option, None) for option in _OPTIONS})


def options_of_queues(app: Celery) -> dict[str, dict[str, Any]]:
    """The limits of queues (`task_queue_limits`), as the engine takes them.

    Raises:
        ImproperlyConfigured: The setting is of another form.
    """
    setting = app.conf.task_queue_limits or {}
    found = {}
    for queue, options in dict(setting).items():
        unknown = set(options) - set(_OPTIONS)
        if unknown:
            raise ImproperlyConfigured(
                f"task_queue_limits of queue {queue!r} has {sorted(unknown)}: known are global_rate_limit and max_concurrency"
            )
        limits = check(f"queue {queue}", options)
        if limits:
            found[str(queue)] = limits
    return found


def write_key(call: Call, value: Any) -> None:
    """Says for which key a call counts.

    Raises:
        ImproperlyConfigured: The task has no limit, or the limits can be kept nowhere.
        TypeError: The task has no argument of that name, or it was not given.
        ValueError: The key is too long.
    """
    task = call.task
    if task is not None and not options_of_task(task):
        raise ImproperlyConfigured(
            f"limit_key= divides a limit, and task {task.name} has none: give it global_rate_limit= or max_concurrency="
        )
    check_store(call.app)
    if callable(value):
        key = value(*call.args or (), **call.kwargs or {})
    elif task is not None and (isinstance(value, Argument) or task._own.get("limit_key") is value):
        key = _argument(task, str(value), call.args or (), call.kwargs or {})
    else:
        key = value
    if key is None:
        return
    text = str(key)
    if len(text) > MAX_KEY:
        raise ValueError(
            f"the limit_key of {call.name} has {len(text)} characters; {MAX_KEY} are allowed: send a digest of it"
        )
    call.members["limit"] = {"key": text}


def check_store(app: Celery) -> None:
    """Checks that there is something that keeps limits.

    Raises:
        ImproperlyConfigured: Neither result backend nor broker can.
    """
    urls = (app.result_backend_effective or "", app.broker_read_url_effective)
    if not any(url.partition(":")[0] in _KEEPS for url in urls):
        raise ImproperlyConfigured(
            "limits of all workers need a place that keeps them: name a redis:// or sqlite:/// result_backend"
        )


def write_limit(call: Call, value: Any) -> None:
    """Checks that a limited task's turns can be kept; writes nothing: workers know the limit.

    Raises:
        ImproperlyConfigured: They cannot, or the call names a limit of its own.
    """
    task = call.task
    if task is None or not any(task._own.get(option) is value for option in _OPTIONS):
        raise ImproperlyConfigured(
            f"global_rate_limit= and max_concurrency= are options of a task or a queue, not of a call ({call.name})"
        )
    check_store(call.app)


def _argument(task: Task[..., Any], name: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
    if name in kwargs:
        return kwargs[name]
    import inspect

    parameters = list(inspect.signature(task.run).parameters.values())
    places = [parameter.name for parameter in parameters]
    if name in places:
        place = places.index(name)
        if place < len(args):
            return args[place]
        default = next(parameter.default for parameter in parameters if parameter.name == name)
        if default is not inspect.Parameter.empty:
            return default
    raise TypeError(f"{task.name}: limit_key={name!r} names an argument that the call does not have")
