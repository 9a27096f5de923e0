"""Schedules answer as Celery's do, on thousands of random ones and moments, changes of the clocks among them."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from .battery import ROOT

HERE = Path(__file__).parent
CELERY = ROOT / ".venv-celery/bin/python"
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Asia/Beirut",
    "Pacific/Apia",
]
#: Hours around which clocks change, in UTC.
CHANGES = ["2026-03-29T01:00", "2026-10-25T01:00", "2026-03-08T07:00", "2026-11-01T06:00", "2026-04-04T15:00",
           "2026-10-03T15:30", "2026-03-28T22:00", "2026-10-24T21:00"]  # fmt: skip
DAY = 86400.0


def table(cases: list[dict[str, Any]], library: str) -> list[Any]:
    """The answers of a library, in a process of its own."""
    python = CELERY if library == "celery" else sys.executable
    done = subprocess.run(
        [python, HERE / "schedule_table.py", library],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT / "python"), "PATH": "/usr/bin:/bin"} if library == "celeriac" else {},
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == len(cases)
    return answers


def moment(rng: random.Random) -> float:
    """Anywhere in some years, or close to a change of the clocks."""
    if rng.random() < 0.5:
        return rng.uniform(datetime(2023, 1, 1, tzinfo=UTC).timestamp(), datetime(2030, 1, 1, tzinfo=UTC).timestamp())
    change = datetime.fromisoformat(rng.choice(CHANGES)).replace(tzinfo=UTC).timestamp()
    near = change + rng.uniform(-5 * 3600, 5 * 3600)
    return float(round(near / 60) * 60) if rng.random() < 0.5 else near


def field(rng: random.Random, first: int, last: int, names: list[str]) -> str:
    """One field, as people write them, and as they do not."""

    def number() -> str:
        return rng.choice(names) if names and rng.random() < 0.3 else str(rng.randint(first, last))

    def part() -> str:
        kind = rng.random()
        if kind < 0.3:
            return "*"
        if kind < 0.5:
            return f"*/{rng.randint(1, last + 3)}"
        if kind < 0.7:
            return number()
        if kind < 0.95:
            return f"{number()}-{number()}" + (f"/{rng.randint(1, 9)}" if rng.random() < 0.4 else "")
        return rng.choice([str(last + 1), "-1", "*/0", "x", "", "1-", "*/", "5 ", "*/3x", "1-3/"])

    return ",".join(part() for _ in range(rng.choice([1, 1, 1, 2, 3])))


def crontab(rng: random.Random) -> list[str]:
    day_fields = ["*", "*", "*"] if rng.random() < 0.5 else [
        field(rng, 0, 6, ["mon", "Tuesday", "sat", "sun"]), field(rng, 1, 31, []), field(rng, 1, 12, ["jan", "dec", "may"])
    ]  # fmt: skip
    return [field(rng, 0, 59, []), field(rng, 0, 23, []), *day_fields]


def differing(cases: list[dict[str, Any]]) -> list[tuple[dict[str, Any], Any, Any]]:
    theirs, ours = table(cases, "celery"), table(cases, "celeriac")
    return [found for found in zip(cases, theirs, ours, strict=True) if found[1] != found[2]]


def is_meant(case: dict[str, Any], theirs: Any, ours: Any) -> bool:
    """Whether it is a difference that is meant: both are of hours that come twice."""
    if not isinstance(theirs, list) or not isinstance(ours, list):
        return False
    zone = ZoneInfo(case["zone"])
    # Celery takes a time in the second of two hours for the same in the first: due before it last ran, at once, over
    # and over.
    if case["now"] * 1e6 + theirs[1] <= case["last"] * 1e6 or (theirs[0] and theirs[2] == 0):
        return True
    # Celery leaves the second hour out; a schedule of every hour runs in it.
    return sets_back(zone, case["last"], case["now"]) and (ours[1] < theirs[1] or ours[2] < theirs[2])


def sets_back(zone: ZoneInfo, first: float, last: float) -> bool:
    """Whether clocks are set back between two moments, or in the days after."""
    begin = datetime.fromtimestamp(first, UTC)
    offsets = [(begin + timedelta(minutes=30 * step)).astimezone(zone).utcoffset() for step in range(48 * 60)]
    assert last - first < 50 * DAY
    return any(later < sooner for sooner, later in itertools.pairwise(offsets) if sooner and later)


def test_crontabs_answer_as_celerys_do() -> None:
    rng = random.Random(20261122)
    cases = []
    for _ in range(6000):
        last = moment(rng)
        ahead = rng.choice([0.0, rng.uniform(0, 120), rng.uniform(0, 7200), rng.uniform(0, 40 * DAY)])
        cases.append({
            "crontab": crontab(rng),
            "zone": rng.choice(ZONES),
            "last": last,
            "now": last + ahead,
            "local": rng.random() < 0.5,
            "deadline": rng.choice([None, None, 0, 60, 3600]),
        })  # fmt: skip

    found = differing(cases)

    unmeant = [each for each in found if not is_meant(*each)]
    assert not unmeant, f"{len(unmeant)} of {len(cases)}: {unmeant[:5]}"
    print(f"{len(cases)} crontabs, {len(found)} of them different because an hour comes twice")
    assert 0 < len(found) < len(cases) / 50


def test_a_year_of_runs_is_celerys_but_for_the_repeated_hour() -> None:
    # Each run is the last one of the next question, as in a scheduler.
    rng = random.Random(4)
    berlin = ZoneInfo("Europe/Berlin")
    for line in ["30 2 * * *", "0 */2 * * *", "15 1-4 * * *", "0 0 * * *", "0,30 2,3 * * mon-sun"]:
        minute, hour, day, month, week = line.split()
        last = datetime(2026, 1, 1, tzinfo=berlin).timestamp()
        steps = [last + rng.uniform(0, 350) * DAY for _ in range(40)]
        steps += [datetime(2026, 10, 25, 0, tzinfo=UTC).timestamp() + 600 * step for step in range(-6, 20)]
        steps += [datetime(2026, 3, 29, 0, tzinfo=UTC).timestamp() + 600 * step for step in range(-6, 20)]
        fields = {"crontab": [minute, hour, week, day, month], "zone": "Europe/Berlin"}
        cases = [{**fields, "last": at, "now": at} for at in steps]
        assert [each for each in differing(cases) if not is_meant(*each)] == []


@pytest.mark.parametrize("relative", [False, True])
def test_intervals_answer_as_celerys_do(relative: bool) -> None:
    rng = random.Random(7)
    lengths = [0.0, 0.5, 1.0, 10.0, 60.0, 90.0, 1800.0, 3600.0, 5400.0, 7200.0, DAY, 1.5 * DAY, 7 * DAY]
    cases = []
    for _ in range(3000):
        every, last = rng.choice(lengths), moment(rng)
        now = last + rng.choice([0.0, rng.uniform(0, 2 * every + 1), rng.uniform(0, 10 * DAY)])
        case = {"every": every, "relative": relative, "zone": rng.choice(ZONES), "last": last, "now": now}
        cases.append({**case, "local": rng.random() < 0.5})

    assert differing(cases) == []


def test_solar_events_are_celerys() -> None:
    rng = random.Random(8)
    events = [
        "dawn_astronomical",
        "dawn_civil",
        "sunrise",
        "solar_noon",
        "sunset",
        "dusk_nautical",
        "dusk_astronomical",
    ]
    cases = []
    for _ in range(200):
        last = moment(rng)
        place = [rng.choice(events), rng.choice([-80, -33.9, 0, 52.5, 69.6]), rng.uniform(-180, 180)]
        cases.append({"solar": place, "zone": rng.choice(ZONES), "last": last, "now": last + rng.uniform(0, 2 * DAY)})

    assert differing(cases) == []
