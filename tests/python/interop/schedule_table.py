"""Computes what schedules answer, with the library that is named: run once with Celery, once with celeriac.

Reads cases as JSON from standard input and writes their answers: whether it is due, and microseconds until then.
"""

from __future__ import annotations

import importlib
import json
import sys
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo


def answers(library: str, cases: list[dict[str, Any]]) -> list[Any]:
    schedules = importlib.import_module(f"{library}.schedules")
    app = importlib.import_module(library).Celery("table", set_as_current=False)
    return [answer(schedules, app, case) for case in cases]


def answer(schedules: Any, app: Any, case: dict[str, Any]) -> Any:
    zone = ZoneInfo(case["zone"])
    now = datetime.fromtimestamp(case["now"], UTC).astimezone(zone)
    app.conf.beat_cron_starting_deadline = case.get("deadline")
    try:
        schedule = make(schedules, case, lambda: now, app)
    except (ValueError, schedules.ParseException) as exc:
        return type(exc).__name__
    schedule.tz = zone
    last = datetime.fromtimestamp(case["last"], UTC)
    if case.get("local", True):
        last = last.astimezone(zone)
    left = schedule.remaining_estimate(last)
    due, following = schedule.is_due(last)
    return [bool(due), round(left.total_seconds() * 1_000_000), round(following * 1_000_000)]


def make(schedules: Any, case: dict[str, Any], now: Any, app: Any) -> Any:
    if "crontab" in case:
        return schedules.crontab(*case["crontab"], nowfun=now, app=app)
    if "solar" in case:
        return schedules.solar(*case["solar"], nowfun=now, app=app)
    return schedules.schedule(case["every"], relative=case["relative"], nowfun=now, app=app)


if __name__ == "__main__":
    json.dump(answers(sys.argv[1], json.load(sys.stdin)), sys.stdout)
