"""Which moments are due, and what becomes of missed ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from celeriac import Celery
from celeriac.beat import ScheduleEntry
from celeriac.beat.moments import Due, Missed, due_moments
from celeriac.schedules import BaseSchedule, crontab, schedstate, schedule

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def entry(app: Celery, when: Any, last: datetime, now: datetime) -> ScheduleEntry:
    if isinstance(when, BaseSchedule):
        when.nowfun = lambda: now
    else:
        when = schedule(when, nowfun=lambda: now)
    return ScheduleEntry(name="e", task="t", schedule=when, last_run_at=last, app=app)


def due(app: Celery, when: Any, last: datetime, now: datetime, **missed: Any) -> Due:
    return due_moments(entry(app, when, last, now), Missed(**missed))


def test_a_moment_is_exact_however_late_it_is_looked_at(app: Celery) -> None:
    found = due(app, 10, NOON, NOON + timedelta(seconds=10, microseconds=123_456))

    assert found.moments == (NOON + timedelta(seconds=10),)


def test_what_is_not_due_says_how_long_to_wait(app: Celery) -> None:
    found = due(app, 10, NOON, NOON + timedelta(seconds=4))

    assert found == Due(wait=6.0)


def test_of_missed_moments_the_latest_stands_for_all_and_the_grid_is_kept(app: Celery) -> None:
    found = due(app, 10, NOON, NOON + timedelta(seconds=57), policy="once")

    assert found.moments == (NOON + timedelta(seconds=50),)


def test_all_missed_moments_are_sent_up_to_the_limit(app: Celery) -> None:
    now = NOON + timedelta(seconds=57)

    assert [moment.second for moment in due(app, 10, NOON, now, policy="all").moments] == [10, 20, 30, 40, 50]
    assert [moment.second for moment in due(app, 10, NOON, now, policy="all", limit=2).moments] == [40, 50]


def test_skipping_sends_what_is_just_due_and_notes_what_is_old(app: Celery) -> None:
    skip: dict[str, Any] = {"policy": "skip", "grace": timedelta(seconds=10)}

    fresh = due(app, 60, NOON, NOON + timedelta(seconds=65), **skip)
    old = due(app, 60, NOON, NOON + timedelta(seconds=115), **skip)

    assert fresh.moments == (NOON + timedelta(seconds=60),)
    assert old == Due(skipped=NOON + timedelta(seconds=60))


def test_a_crontab_that_was_missed_for_a_year_is_not_walked_through(app: Celery) -> None:
    last, now = NOON - timedelta(days=365), NOON + timedelta(seconds=30)

    assert due(app, crontab(app=app), last, now).moments == (NOON,)
    found = due(app, crontab(minute="*/15", app=app), last, now, policy="all", limit=3).moments
    assert [moment.minute for moment in found] == [30, 45, 0]


def test_the_starting_deadline_leaves_out_what_was_missed_before(app: Celery) -> None:
    app.conf.beat_cron_starting_deadline = 1000
    now = NOON + timedelta(minutes=1)

    found = due(app, crontab(minute="*/10", app=app), NOON - timedelta(days=1), now, policy="all")

    assert found.moments == (NOON - timedelta(minutes=10), NOON)
    assert due(app, crontab(minute=30, hour=7, app=app), NOON - timedelta(days=1), now).moments == ()


def test_both_hours_of_the_same_name_have_their_moments(app: Celery) -> None:
    app.conf.timezone = "Europe/Berlin"
    berlin = ZoneInfo("Europe/Berlin")
    last = datetime(2026, 10, 25, 2, 30, tzinfo=berlin)

    found = due(app, crontab(minute="*/30", app=app), last, datetime(2026, 10, 25, 4, tzinfo=berlin), policy="all")

    clocks = [moment.astimezone(berlin) for moment in found.moments]
    assert [(clock.hour, clock.minute, clock.fold) for clock in clocks] == [
        (2, 0, 1), (2, 30, 1), (3, 0, 0), (3, 30, 0), (4, 0, 0)
    ]  # fmt: skip


class OnWorkdays(schedule):
    """Every so often, but never on a weekend: written by a user."""

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        if self.now().weekday() >= 5:
            return schedstate(False, 3600.0)
        return super().is_due(last_run_at)


class Always(BaseSchedule):
    """Knows only whether it is due."""

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        return schedstate(True, 5.0)


def test_schedules_of_ones_own_are_asked_whether_they_are_due(app: Celery) -> None:
    saturday = datetime(2026, 6, 6, 12, tzinfo=UTC)

    assert due(app, OnWorkdays(10), saturday - timedelta(days=1), saturday) == Due(wait=3600.0)
    monday = saturday + timedelta(days=2)
    assert due(app, OnWorkdays(10), monday - timedelta(seconds=10), monday).moments == (monday,)
    assert due(app, Always(), NOON - timedelta(days=1), NOON).moments == (NOON,)


@pytest.mark.parametrize("policy", ["once", "skip", "all"])
def test_no_moment_comes_twice_and_time_goes_on(app: Celery, policy: str) -> None:
    last, seen = NOON, []
    for step in range(0, 600, 7):
        found = due(app, crontab(app=app), last, NOON + timedelta(seconds=step), policy=policy)
        for moment in found.moments:
            seen.append(moment)
            last = moment

    assert seen == [NOON + timedelta(minutes=minute) for minute in range(1, 10)]
