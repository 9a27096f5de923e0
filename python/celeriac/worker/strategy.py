"""How messages are read, for libraries that receive tasks by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["default", "hybrid_to_proto2", "proto1_to_proto2"]

_FROM_BODY = (
    "id",
    "task",
    "retries",
    "eta",
    "expires",
    "timelimit",
    "callbacks",
    "errbacks",
    "chain",
    "chord",
    "group",
)


def hybrid_to_proto2(message: Any, body: dict[str, Any]) -> tuple[Any, dict[str, Any], bool, bool]:
    """A message whose headers are of protocol 2 and whose body is of protocol 1: (body, headers, decoded, utc).

    Raises:
        InvalidTaskError: The body is not one.
    """
    args, kwargs = _arguments(body)
    headers = dict(message.headers or {})
    for name, default in (("lang", None), ("shadow", None), ("origin", None)):
        headers.setdefault(name, body.get(name, default))
    for name in _FROM_BODY:
        headers.setdefault(name, body.get(name))
    headers["timelimit"] = headers.get("timelimit") or (None, None)
    return (args, kwargs, _embed(body)), headers, True, bool(body.get("utc", True))


def proto1_to_proto2(message: Any, body: dict[str, Any]) -> tuple[Any, dict[str, Any], bool, bool]:
    """A message of protocol 1: (body, headers, decoded, utc).

    Raises:
        InvalidTaskError: The body is not one.
    """
    args, kwargs = _arguments(body)
    headers = {**(getattr(message, "headers", None) or {}), **body}
    headers["group"] = body.get("taskset")
    return (args, kwargs, _embed(body)), headers, True, bool(body.get("utc", True))


def default(task: Any, app: Any, consumer: Any, **kwargs: Any) -> Callable[..., Any]:
    """What receives messages of a task: here it is the engine, so that there is nothing to call.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError("messages are received by the engine: a task cannot have a strategy of its own")


def _arguments(body: dict[str, Any]) -> tuple[Any, Any]:
    from celeriac.exceptions import InvalidTaskError

    try:
        args, kwargs = body.get("args", ()), body.get("kwargs", {})
        kwargs.items  # noqa: B018 -- refuses what is no mapping
    except KeyError:
        raise InvalidTaskError("Message does not have args/kwargs") from None
    except AttributeError:
        raise InvalidTaskError("Task keyword arguments must be a mapping") from None
    return args, kwargs


def _embed(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "callbacks": body.get("callbacks"),
        "errbacks": body.get("errbacks"),
        "chord": body.get("chord"),
        "chain": None,
    }
