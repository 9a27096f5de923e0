"""Schedules alone. That they answer as Celery's do is in `tests/python/interop/test_schedules.py`."""

from __future__ import annotations

import copy
import pickle
import random
import sys
import types
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from celeriac import Celery
from celeriac.exceptions import ImproperlyConfigured
from celeriac.schedules import (
    BaseSchedule,
    ParseException,
    crontab,
    crontab_parser,
    maybe_schedule,
    schedstate,
    schedule,
    solar,
)
from celeriac.utils.time import humanize_seconds, instants, local_zone, maybe_make_aware

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def fixed() -> datetime:
    """A clock that can be pickled."""
    return NOON


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("*", range(24)),
        ("5", [5]),
        ("*/6", [0, 6, 12, 18]),
        ("8-11", [8, 9, 10, 11]),
        ("22-1", [22, 23, 0, 1]),
        ("0-12/4", [0, 4, 8, 12]),
        ("1,3,5-6", [1, 3, 5, 6]),
    ],
)
def test_a_field_is_read(text: str, numbers: Any) -> None:
    assert crontab_parser(24).parse(text) == set(numbers)


def test_names_stand_for_days_and_months() -> None:
    assert crontab(day_of_week="mon-Friday").day_of_week == {1, 2, 3, 4, 5}
    assert crontab(day_of_week="fri-mon").day_of_week == {5, 6, 0, 1}
    assert crontab(month_of_year="jan,december").month_of_year == {1, 12}


@pytest.mark.parametrize("text", ["", "1,,2", "-3", "*/", "1-5/"])
def test_a_field_without_form_is_a_parse_exception(text: str) -> None:
    with pytest.raises(ParseException):
        crontab_parser(60).parse(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"minute": 60},
        {"hour": "24"},
        {"day_of_week": 7},
        {"day_of_month": 0},
        {"month_of_year": "13"},
        {"minute": "x"},
        {"minute": "*/0"},
        {"day_of_month": 30, "month_of_year": 2},
        {"day_of_month": 31, "month_of_year": "4,6,9,11"},
    ],
)
def test_what_never_comes_is_refused_when_it_is_made(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"range|occurs|literal|step"):
        crontab(**fields)


def test_a_field_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="iterable of ints"):
        crontab(minute=1.5)  # type: ignore[arg-type]


def test_a_line_has_the_order_of_cron_and_arguments_have_celerys() -> None:
    line = crontab.from_string("1 2 3 4 5")

    assert (line.minute, line.hour, line.day_of_month, line.month_of_year, line.day_of_week) == (
        {1},
        {2},
        {3},
        {4},
        {5},
    )
    assert line == crontab(1, 2, 5, 3, 4)
    assert repr(line) == "<crontab: 1 2 3 4 5 (m/h/dM/MY/d)>"


def test_the_next_run_of_a_crontab_is_later_and_fits_and_nothing_is_left_out(app: Celery) -> None:
    # Against a search minute by minute, in a zone whose clocks change.
    rng = random.Random(3)
    for _ in range(60):
        hours = sorted(rng.sample(range(24), rng.randint(1, 23)))
        when = crontab(minute=rng.sample(range(60), 3), hour=hours, day_of_week=rng.sample(range(7), 5), app=app)
        when.tz = BERLIN
        start = datetime(2026, 3, 28, tzinfo=BERLIN) + timedelta(minutes=rng.randint(0, 300 * 1440))
        when.nowfun = lambda start=start: start
        found = start.astimezone(UTC) + when.remaining_estimate(start)

        clock = start.astimezone(UTC).replace(second=0)
        while True:
            clock += timedelta(minutes=1)
            local = clock.astimezone(BERLIN)
            if (
                local.minute in when.minute
                and local.hour in when.hour
                and local.isoweekday() % 7 in when.day_of_week
                and not local.fold
            ):
                break
        # A time that clocks skip runs an hour later by the clock, before the next one that they show.
        assert found <= clock
        if found != clock:
            assert (found.astimezone(BERLIN).date().isoformat()) == "2026-03-29"


def test_in_a_night_that_is_longer_every_hour_runs_twice_and_a_certain_hour_once(app: Celery) -> None:
    def runs(when: crontab) -> list[str]:
        when.tz, moment, found = BERLIN, datetime(2026, 10, 25, 0, 59, tzinfo=BERLIN), []
        while True:
            when.nowfun = lambda moment=moment: moment
            moment = (moment.astimezone(UTC) + when.remaining_estimate(moment)).astimezone(BERLIN)
            if (moment.day, moment.hour) >= (25, 4):
                return found
            found.append(f"{moment:%H:%M%z}")

    assert runs(crontab(minute="*/30", app=app)) == [
        "01:00+0200", "01:30+0200", "02:00+0200", "02:30+0200", "02:00+0100", "02:30+0100", "03:00+0100", "03:30+0100"
    ]  # fmt: skip
    assert runs(crontab(minute=30, hour="2,3", app=app)) == ["02:30+0200", "03:30+0100"]


def test_in_a_night_that_is_shorter_a_skipped_time_runs_an_hour_later(app: Celery) -> None:
    when = crontab(minute=30, hour=2, app=app)
    when.tz = BERLIN
    last = datetime(2026, 3, 28, 2, 30, tzinfo=BERLIN)
    when.nowfun = lambda: last

    found = (last.astimezone(UTC) + when.remaining_estimate(last)).astimezone(BERLIN)

    assert f"{found:%d %H:%M%z}" == "29 03:30+0200"


def test_a_day_that_is_relative_ends_at_midnight(app: Celery) -> None:
    app.conf.timezone = "Europe/Berlin"
    now = datetime(2026, 6, 1, 18, tzinfo=BERLIN)
    daily = schedule(timedelta(days=1), relative=True, nowfun=lambda: now, app=app)

    assert daily.is_due(now) == schedstate(is_due=False, next=6 * 3600)
    assert daily.is_due(now - timedelta(days=1)) == schedstate(is_due=True, next=6 * 3600)


def test_naive_times_are_utc(app: Celery) -> None:
    app.conf.timezone = "Europe/Berlin"
    hourly = schedule(3600, nowfun=lambda: NOON, app=app)

    assert hourly.is_due(datetime(2026, 6, 1, 11, 30)) == schedstate(is_due=False, next=1800)
    assert maybe_make_aware(datetime(2026, 6, 1), "Europe/Berlin").hour == 2
    assert maybe_make_aware(datetime(2026, 6, 1), "Europe/Berlin", naive_as_utc=False).hour == 0


def test_intervals_count_real_time(app: Celery) -> None:
    last = datetime(2026, 10, 25, 1, 30, tzinfo=BERLIN)
    now = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)

    assert schedule(7200, nowfun=lambda: now, app=app).is_due(last) == schedstate(is_due=True, next=7200)


def test_schedules_are_made_of_numbers_and_get_the_app(app: Celery) -> None:
    assert maybe_schedule(5) == schedule(5) == timedelta(seconds=5)
    assert maybe_schedule(None) is None
    cron = crontab()
    assert maybe_schedule(cron, app=app) is cron
    assert cron.app is app
    assert maybe_schedule(timedelta(days=1), relative=True).relative


@pytest.mark.parametrize(
    "made", [schedule(5, relative=True, nowfun=fixed), crontab(minute="*/5", hour={1, 2}, nowfun=fixed), crontab()]
)
def test_schedules_are_copied_and_pickled(made: BaseSchedule) -> None:
    for other in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert other == made
        assert other.nowfun == made.nowfun
        assert type(other) is type(made)
        assert other.__class__.__module__ == "celeriac.schedules"


def test_equality_looks_at_what_counts() -> None:
    assert crontab(minute="0,30") == crontab(minute="*/30")
    assert crontab(minute=1) != crontab(minute=2)
    assert crontab() != crontab(nowfun=fixed)
    assert crontab() != 5
    assert schedule(5) != schedule(6)


def test_solar_without_ephem_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ephem", None)

    with pytest.raises(ImproperlyConfigured, match="pip install ephem"):
        solar("sunrise", 0, 0)


def test_solar_refuses_what_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ephem", types.SimpleNamespace(Observer=types.SimpleNamespace))

    for arguments in [("sunshine", 0, 0), ("sunset", 91, 0), ("sunset", 0, -181)]:
        with pytest.raises(ValueError, match="invalid"):
            solar(*arguments)
    assert repr(solar("sunset", 1, 2)) == "<solar: sunset at latitude 1, longitude: 2>"
    assert pickle.loads(pickle.dumps(solar("sunset", 1, 2))) == solar("sunset", 1, 2)


def test_a_local_time_has_one_moment_or_two() -> None:
    assert len(instants(datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN))) == 2
    assert instants(datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN)) == [datetime(2026, 3, 29, 1, 30, tzinfo=UTC)]


def test_the_machines_zone_knows_when_its_clocks_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    assert local_zone() == ZoneInfo("America/New_York")
    monkeypatch.setenv("TZ", "No/Such")
    assert isinstance(local_zone(), (ZoneInfo, timezone))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "now"), (1, "1.00 second"), (90, "1.50 minutes"), (3600, "1.00 hour"), (172_800, "2.00 days")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert humanize_seconds(seconds) == text
