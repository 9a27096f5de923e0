"""Dates as they travel in messages, and as schedules reckon with them."""

from __future__ import annotations

import os
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

__all__ = [
    "LocalTimezone",
    "add_seconds_to_datetime",
    "adjust_timestamp",
    "delta_resolution",
    "ffwd",
    "get_exponential_backoff_interval",
    "get_timezone",
    "humanize_seconds",
    "instants",
    "is_naive",
    "local_zone",
    "localize",
    "make_aware",
    "maybe_iso8601",
    "maybe_make_aware",
    "maybe_timedelta",
    "parse_iso8601",
    "rate",
    "remaining",
    "subtract_datetimes",
    "timezone",
    "to_milliseconds",
    "to_utc",
    "utcoffset",
    "weekday",
    "yearmonth",
    "zone",
]


def parse_iso8601(text: str) -> datetime:
    """Reads an ISO 8601 date, with `Z`, a blank instead of `T`, or more than six decimals, as peers write them."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        head, dot, rest = text.partition(".")
        if not dot:
            raise
        digits = len(rest) - len(rest.lstrip("0123456789"))
        return datetime.fromisoformat(f"{head}.{rest[: min(digits, 6)]:0<6}{rest[digits:]}")


def maybe_iso8601(value: datetime | str | None) -> datetime | None:
    """A date from a date or its text."""
    return parse_iso8601(value) if isinstance(value, str) else value


def maybe_timedelta(value: float | timedelta | None) -> timedelta | None:
    """A duration from one, or from seconds."""
    return timedelta(seconds=value) if isinstance(value, (int, float)) else value


def make_aware(value: datetime, tz: tzinfo) -> datetime:
    """Gives a naive date a zone."""
    return value.replace(tzinfo=tz) if value.tzinfo is None else value


def to_milliseconds(value: datetime) -> int:
    """Milliseconds since the epoch; a naive date is UTC, as on the wire."""
    return int(make_aware(value, UTC).timestamp() * 1000)


def zone(name: str | tzinfo | None, enable_utc: bool) -> tzinfo:
    """The zone of an app: its own, else UTC, else the machine's."""
    if isinstance(name, tzinfo):
        return name
    if name and name.upper() != "UTC":
        from zoneinfo import ZoneInfo

        return ZoneInfo(name)
    if name or enable_utc:
        return UTC
    return local_zone()


def local_zone() -> tzinfo:
    """The machine's zone, with its changes to and from daylight saving time where the system names it."""
    from zoneinfo import ZoneInfo

    names = [os.environ.get("TZ", "").lstrip(":"), os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]]
    for name in names:
        if name:
            try:
                return ZoneInfo(name)
            except (KeyError, OSError, ValueError):
                continue
    fixed = datetime.now().astimezone().tzinfo
    return UTC if fixed is None else fixed


def is_naive(value: datetime) -> bool:
    """Whether a date has no zone."""
    return value.tzinfo is None or value.utcoffset() is None


def maybe_make_aware(value: datetime, tz: tzinfo | str | None = None, naive_as_utc: bool = True) -> datetime:
    """Gives a naive date a zone; one that has a zone keeps it.

    Args:
        value: The date.
        tz: The zone of the result; UTC when there is none.
        naive_as_utc: What is naive is UTC; otherwise it is a local time of `tz`.
    """
    if not is_naive(value):
        return value
    wanted = UTC if tz is None else get_timezone(tz)
    if naive_as_utc:
        return value.replace(tzinfo=UTC).astimezone(wanted)
    return value.replace(tzinfo=wanted, fold=0)


def get_timezone(tz: tzinfo | str) -> tzinfo:
    """A zone from its name, or as it is."""
    if isinstance(tz, str):
        return zone(tz, enable_utc=True)
    return tz


def instants(value: datetime) -> list[datetime]:
    """The moments, in UTC, at which clocks of its zone show a local time.

    Two where clocks are set back; one otherwise. A local time that clocks skip counts as if they were set forward a
    little later: 02:30 is the moment that is called 03:30.
    """
    first, second = (value.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    return [first, second] if second > first else [first]


class ffwd:
    """What to replace in a local time, and how many days to add then: the result of `crontab.remaining_delta`."""

    def __init__(
        self,
        year: int | None = None,
        month: int | None = None,
        weeks: int = 0,
        weekday: int | None = None,
        day: int | None = None,
        hour: int | None = None,
        minute: int | None = None,
        second: int | None = None,
        microsecond: int | None = None,
    ) -> None:
        self.year, self.month, self.day = year, month, day
        self.hour, self.minute, self.second, self.microsecond = hour, minute, second, microsecond
        self.weekday = weekday
        self.days = weeks * 7

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, date):
            return NotImplemented
        year, month = self.year or other.year, self.month or other.month
        fields = {name: value for name in _CLOCK if (value := getattr(self, name)) is not None}
        last = monthrange(year, month)[1]
        moved = other.replace(year=year, month=month, day=min(last, self.day or other.day), **fields)
        days = self.days
        if self.weekday is not None:
            days += (self.weekday - moved.weekday()) % 7
        return moved + timedelta(days=days)

    def __repr__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value}
        return f"ffwd({', '.join(f'{name}={value!r}' for name, value in given.items())})"


_CLOCK = ("hour", "minute", "second", "microsecond")


def delta_resolution(value: datetime, delta: timedelta) -> datetime:
    """Cuts a date to the unit of a duration: to its day, hour or minute; below a minute nothing is cut."""
    seconds = delta.total_seconds()
    if seconds >= 86400:
        return value.replace(hour=0, minute=0, second=0, microsecond=0)
    if seconds >= 3600:
        return value.replace(minute=0, second=0, microsecond=0)
    if seconds >= 60:
        return value.replace(second=0, microsecond=0)
    return value


def remaining(
    start: datetime, ends_in: timedelta | ffwd, now: datetime | None = None, relative: bool = False
) -> timedelta:
    """How long from now until a duration after `start` is over, in real time; negative when it is.

    Args:
        start: An aware date.
        ends_in: The duration, or what to replace in the local time of `start`.
        now: Now, unless given.
        relative: The end is cut to the unit of the duration, in local time: a day ends at midnight.
    """
    end: datetime
    if relative and isinstance(ends_in, timedelta):
        end = _relative_end(start, ends_in)
    elif isinstance(ends_in, timedelta):
        end = _later(start, ends_in)
    else:
        end = start + ends_in
    return end.astimezone(UTC) - (now or datetime.now(UTC)).astimezone(UTC)


def _later(start: datetime, delta: timedelta) -> datetime:
    """So much later in real time, in the same zone. Python's own sum would be one of clock faces."""
    return start + delta if start.tzinfo is None else (start.astimezone(UTC) + delta).astimezone(start.tzinfo)


def _relative_end(start: datetime, delta: timedelta) -> datetime:
    def cut(value: datetime) -> list[datetime]:
        return instants(delta_resolution(value, delta).replace(microsecond=0))

    begin = start.astimezone(UTC)
    if delta >= timedelta(days=1):
        # So many days by the calendar; the first midnight of that day that is still to come.
        end = start + delta
        return min((moment for moment in cut(end) if moment > begin), default=end.astimezone(UTC))
    end, limit = _later(start, delta), begin + delta
    found = cut(end)
    rounded = max((moment for moment in found if moment <= limit), default=min(found))
    if rounded > begin or delta < timedelta(minutes=1):
        return rounded
    # Clocks were set back by part of an hour, so that the unit began before the start: the next one counts.
    unit = timedelta(hours=1) if delta >= timedelta(hours=1) else timedelta(minutes=1)
    found = [moment for moment in (*found, *cut(end + unit), *cut(start + delta)) if moment > begin]
    return max((moment for moment in found if moment <= limit), default=min(found, default=limit))


_DAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_MONTHS = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}


def weekday(name: str) -> int:
    """The number of a weekday, Sunday being 0, by the first three letters of its name.

    Raises:
        KeyError: There is none.
    """
    return _named(_DAYS, name)


def yearmonth(name: str) -> int:
    """The number of a month by the first three letters of its name.

    Raises:
        KeyError: There is none.
    """
    return _named(_MONTHS, name)


def _named(numbers: dict[str, int], name: str) -> int:
    number = numbers.get(name[:3].lower())
    if number is None:
        raise KeyError(name)
    return number


def humanize_seconds(seconds: float, prefix: str = "", sep: str = "", now: str = "now") -> str:
    """A duration for people: `1.00 minute`, `2.00 hours`."""
    for unit, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0)):
        if round(seconds, 2) >= size:
            count = round(seconds, 2) / size
            return f"{prefix}{sep}{count:.2f} {unit}{'s' if count > 1 else ''}"
    return now


class LocalTimezone(tzinfo):
    """The machine's zone, as the system has it."""

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return _system(dt).utcoffset() or timedelta()

    def dst(self, dt: datetime | None) -> timedelta:
        return _system(dt).dst() or timedelta()

    def tzname(self, dt: datetime | None) -> str:
        return _system(dt).tzname() or ""

    def fromutc(self, dt: datetime) -> datetime:
        return dt.replace(tzinfo=UTC).astimezone(local_zone()).replace(tzinfo=self)

    def __repr__(self) -> str:
        return "<LocalTimezone>"


def _system(value: datetime | None) -> datetime:
    zone = local_zone()
    return datetime.now(zone) if value is None else value.replace(tzinfo=zone)


class _Zones:
    """Zones, and dates in them: what libraries know as `timezone`."""

    utc = UTC

    @property
    def local(self) -> tzinfo:
        """The machine's."""
        return local_zone()

    def get_timezone(self, zone: tzinfo | str) -> tzinfo:
        """A zone from its name, or as it is."""
        return get_timezone(zone)

    def tz_or_local(self, tzinfo: tzinfo | str | None = None) -> tzinfo:
        """The zone, or the machine's."""
        return self.local if tzinfo is None else get_timezone(tzinfo)

    def to_local(self, dt: datetime, local: tzinfo | None = None, orig: tzinfo | None = None) -> datetime:
        """A date in a zone; a naive one is UTC, or of the zone `orig`."""
        return localize(make_aware(dt, orig or UTC) if is_naive(dt) else dt, self.tz_or_local(local))

    def to_system(self, dt: datetime) -> datetime:
        """A date in the machine's zone."""
        return dt.astimezone()

    def to_local_fallback(self, dt: datetime) -> datetime:
        """A date in the machine's zone; a naive one is so already."""
        return make_aware(dt, self.local) if is_naive(dt) else localize(dt, self.local)


timezone = _Zones()


def localize(dt: datetime, tz: tzinfo) -> datetime:
    """A date in another zone."""
    return dt.astimezone(tz)


def to_utc(dt: datetime) -> datetime:
    """A naive date is UTC."""
    return make_aware(dt, UTC)


def add_seconds_to_datetime(dt: datetime, seconds: float) -> datetime:
    """So many seconds later in real time, in the same zone."""
    return _later(dt, timedelta(seconds=seconds))


def subtract_datetimes(end: datetime, start: datetime) -> timedelta:
    """How long it is between two dates, in real time."""
    if start.tzinfo is None or end.tzinfo is None:
        return end - start
    return end.astimezone(UTC) - start.astimezone(UTC)


_PER_SECOND = {"s": 1, "m": 60, "h": 3600}


def rate(r: str | float | None) -> float:
    """How many a second: of `100/m`, `2/h`, `0.5/s`, or a number."""
    if not r:
        return 0
    if not isinstance(r, str):
        return r
    count, _, unit = r.partition("/")
    return float(count) / _PER_SECOND[unit or "s"]


def utcoffset(time: Any = None, localtime: Any = None) -> int:
    """Hours from the machine's time to UTC, now."""
    offset = datetime.now().astimezone().utcoffset() or timedelta()
    return int(-offset.total_seconds() // 3600)


def adjust_timestamp(ts: float, offset: int, here: Any = utcoffset) -> float:
    """A time of a machine that is `offset` hours from UTC, as it is here."""
    return float(ts - (offset - here()) * 3600)


def get_exponential_backoff_interval(factor: int, retries: int, maximum: int, full_jitter: bool = False) -> int:
    """Seconds before another try: twice as many each time, up to a maximum.

    Args:
        factor: Seconds before the second try.
        retries: How many there have been.
        maximum: The most.
        full_jitter: Any number up to that, by chance.
    """
    countdown = int(min(maximum, factor * (2**retries)))
    if full_jitter:
        from random import randrange

        countdown = randrange(countdown + 1)
    return max(0, int(countdown))
