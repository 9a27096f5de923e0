"""One event, and where events go."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from celeriac.entities import Exchange

__all__ = ["EXCHANGE_NAME", "Event", "event_exchange", "get_exchange", "group_from", "utcoffset"]

EXCHANGE_NAME = "celeryev"
event_exchange = Exchange(EXCHANGE_NAME, type="topic")


def Event(type: str, _fields: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Makes an event: a dictionary with a `type`, and a `timestamp` (now, unless one is among the fields)."""
    event: dict[str, Any] = {**(_fields or {}), **fields}
    if "timestamp" not in event:
        event["timestamp"] = time.time()
    event["type"] = type
    return event


def group_from(type: str) -> str:
    """The group that a type belongs to: `task` of `task-sent`."""
    return type.split("-", 1)[0]


def get_exchange(conn: Any, name: str = EXCHANGE_NAME) -> Exchange:
    """The exchange of events; on Redis it is a fanout.

    Args:
        conn: A `Connection`.
        name: The exchange's name.
    """
    fanout = conn is not None and conn.transport.driver_type == "redis"
    return Exchange(name, type="fanout" if fanout else "topic")


def utcoffset() -> float:
    """How many hours this machine is west of UTC, now."""
    return (time.altzone if time.localtime().tm_isdst else time.timezone) / 3600
