"""Answers of the views, before a framework sends them; and what is told of a task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from math import isfinite
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.app.progress import PROGRESS
from celeriac.result.record import read_record

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["JSON_HEADERS", "Answer", "describe", "problem", "to_json"]

JSON_HEADERS = {
    "Content-Type": "application/json",
    # What a task is doing is old in a moment, and not everybody's business.
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response."""

    status: int
    content: Any = None
    more_headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """Its headers, without the length."""
        return {**JSON_HEADERS, **self.more_headers}

    @property
    def body(self) -> bytes:
        """JSON; empty where the status has no content."""
        return b"" if self.status in (204, 304) else to_json(self.content).encode() + b"\n"


def problem(status: int, error: str, **more: Any) -> Answer:
    """Something went wrong: `{"error": ...}`."""
    return Answer(status, {"error": error, **more})


def to_json(content: Any) -> str:
    """Plain JSON in one line, as browsers read it. What it cannot say is written as text."""
    try:
        return json.dumps(content, default=_plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(_simplified(content, 8), default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, (bytes, bytearray)):
        return value.decode(errors="replace")
    return str(value)


def _simplified(value: Any, depth: int) -> Any:
    """Infinite numbers, keys that are no text and what is nested too deeply become text."""
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if not depth:
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _simplified(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_simplified(item, depth - 1) for item in value]
    return _plain(value)


def describe(app: Celery, task_id: str, record: Any, *, tracebacks: bool = False) -> dict[str, Any]:
    """What everybody who may see a task is told of it.

    Args:
        app: Whose result backend it is from.
        task_id: Which.
        record: What is stored; None: nothing.
        tracebacks: Tell where it failed, too.
    """
    try:
        document = read_record(app, record)
    except Exception as exc:
        # Such as a content type that is not accepted: the task may be well all the same.
        state = record.state
        document = {"status": state, "result": None, "unreadable": f"{type(exc).__name__}: {exc}"}
    state, info = str(document["status"]), document["result"]
    told: dict[str, Any] = {
        "id": task_id,
        "state": state,
        "ready": state in states.READY_STATES,
        "known": record is not None,
        "progress": None,
        "result": info if state == states.SUCCESS else None,
        "error": None,
    }
    if state == PROGRESS or (state not in states.ALL_STATES and isinstance(info, Mapping)):
        told["progress"] = info
    elif isinstance(info, BaseException) and state in states.EXCEPTION_STATES:
        told["error"] = {"type": type(info).__name__, "message": str(info)}
        if tracebacks:
            told["error"]["traceback"] = document.get("traceback")
    if "unreadable" in document:
        told["error"] = {"type": "UnreadableResult", "message": document["unreadable"]}
    return told
