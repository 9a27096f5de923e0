"""Periodic tasks declared with Celery's schedules, as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celeriac.schedules import crontab, schedule, solar

__all__ = ["entries"]

_KINDS: dict[str, type] = {"crontab": crontab, "schedule": schedule, "solar": solar}


def entries(beat_schedule: Mapping[str, Any] | None) -> dict[str, Any]:
    """The setting `beat_schedule` of Celery's app."""
    return {name: _entry(entry) for name, entry in (beat_schedule or {}).items()}


def _entry(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    found = dict(entry)
    found["schedule"] = _schedule(entry.get("schedule"))
    if entry.get("args"):
        found["args"] = tuple(_argument(value) for value in entry["args"])
    if entry.get("kwargs"):
        found["kwargs"] = {name: _argument(value) for name, value in entry["kwargs"].items()}
    return found


def _schedule(given: Any) -> Any:
    """Celery's own classes become ours, which keep daylight saving; a class of the project's own stays and is asked."""
    cls = type(given)
    kind = _KINDS.get(cls.__name__) if cls.__module__ == "celery.schedules" else None
    if kind is None:
        return given
    # As it would be pickled: class, arguments, and for a crontab its other keywords.
    _, arguments, *rest = given.__reduce__()
    keywords = {name: value for name, value in (rest[0] if rest and rest[0] else {}).items() if name == "nowfun"}
    return kind(*arguments, **keywords)


def _argument(value: Any) -> Any:
    if type(value).__module__ == "celery.beat" and type(value).__name__ == "BeatLazyFunc":
        # By name: arguments are the only use of beat that an app without periodic tasks has.
        from celeriac.beat import BeatLazyFunc

        return BeatLazyFunc(value)
    return value
