"""`crontab`: at certain minutes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

from celeriac.schedules._base import BaseSchedule, schedstate
from celeriac.schedules._field import crontab_parser
from celeriac.utils.time import ffwd, get_timezone, instants

#: A field of a crontab: a number, a text such as `"*/15"`, or numbers.
Cronspec = int | str | Iterable[int]

_DAYS_IN_MONTH = {month: 30 if month in {4, 6, 9, 11} else 29 if month == 2 else 31 for month in range(1, 13)}
#: Months to look ahead: the 29th of February on a certain weekday is at most forty years away.
_MONTHS_AHEAD = 12 * 48


class crontab(BaseSchedule):
    """At certain minutes, as of a crontab: a minute that fits all five fields.

    Args:
        minute: 0 to 59.
        hour: 0 to 23.
        day_of_week: 0 (Sunday) to 6, or names. **The order differs from that of a crontab's line.**
        day_of_month: 1 to 31.
        month_of_year: 1 to 12, or names.
        **kwargs: `nowfun` and `app`.

    Raises:
        ParseException, ValueError, TypeError: A field cannot be read, or no such day exists.

    Example:
        >>> crontab(minute=30, hour=7, day_of_week="mon-fri")
        <crontab: 30 7 * * mon-fri (m/h/dM/MY/d)>
    """

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        **kwargs: Any,
    ) -> None:
        self._orig_minute = minute
        self._orig_hour = hour
        self._orig_day_of_week = day_of_week
        self._orig_day_of_month = day_of_month
        self._orig_month_of_year = month_of_year
        self._orig_kwargs = kwargs
        self.hour = self._expand_cronspec(hour, 24)
        self.minute = self._expand_cronspec(minute, 60)
        self.day_of_week = self._expand_cronspec(day_of_week, 7)
        self.day_of_month = self._expand_cronspec(day_of_month, 31, 1)
        self.month_of_year = self._expand_cronspec(month_of_year, 12, 1)
        if not any(day <= _DAYS_IN_MONTH[month] for month in self.month_of_year for day in self.day_of_month):
            raise ValueError(
                f"Invalid crontab: day_of_month {day_of_month!r} never occurs in month_of_year {month_of_year!r}."
            )
        super().__init__(**kwargs)

    @classmethod
    def from_string(cls, crontab: str) -> crontab:
        """Makes one of a crontab's line: minute, hour, day of month, month, day of week, with single blanks."""
        minute, hour, day_of_month, month_of_year, day_of_week = crontab.split(" ")
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    @staticmethod
    def _expand_cronspec(cronspec: Cronspec, max_: int, min_: int = 0) -> set[int]:
        if isinstance(cronspec, int):
            numbers = {cronspec}
        elif isinstance(cronspec, str):
            numbers = crontab_parser(max_, min_).parse(cronspec)
        elif isinstance(cronspec, Iterable):
            numbers = set(cronspec)
        else:
            raise TypeError(f"a field of a crontab is an int, a str or an iterable of ints, not {type(cronspec)!r}")
        for number in numbers:
            if not min_ <= number < min_ + max_:
                raise ValueError(
                    f"Invalid crontab pattern.  Valid range is {min_}-{max_ - 1 + min_}. '{number}' was found."
                )
        return numbers

    def remaining_delta(
        self, last_run_at: datetime, tz: str | tzinfo | None = None, ffwd: Any = ffwd
    ) -> tuple[datetime, Any, datetime]:
        """When it last ran, in the schedule's zone; what leads from there to the next run; the time now."""
        zone = get_timezone(tz or self.tz)
        start = self.maybe_make_aware(last_run_at).astimezone(zone)
        now = self.maybe_make_aware(self.now()).astimezone(zone)
        match = self._next_match(start.replace(tzinfo=None))
        delta = ffwd(
            year=match.year,
            month=match.month,
            day=match.day,
            hour=match.hour,
            minute=match.minute,
            second=0,
            microsecond=0,
        )
        return start, delta, now

    def remaining_estimate(self, last_run_at: datetime, ffwd: Any = ffwd) -> timedelta:
        """See `BaseSchedule`."""
        start, delta, now = self.remaining_delta(last_run_at, ffwd=ffwd)
        return self._moment(start, start + delta) - now.astimezone(UTC)

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """See `BaseSchedule`. `beat_cron_starting_deadline` drops runs that were missed longer ago."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        due = left == 0 or not self._too_late()
        return schedstate(due, max(self.remaining_estimate(self.now()).total_seconds(), 0))

    def _too_late(self) -> bool:
        """Whether no run fell into the time for which missed ones are made up."""
        deadline = self.app.conf.beat_cron_starting_deadline
        if deadline is None:
            return False
        now = self.maybe_make_aware(self.now())
        # A run right at the deadline still counts.
        since = (now.astimezone(UTC) - timedelta(seconds=deadline, microseconds=1)).astimezone(now.tzinfo)
        return self.remaining_estimate(since).total_seconds() > 0

    def _moment(self, start: datetime, end: datetime) -> datetime:
        """When, in UTC, clocks show `end` after `start`; earlier, where an hour in between comes twice."""
        begin, found = start.astimezone(UTC), instants(end)
        moment = next((moment for moment in found if moment > begin), found[-1])
        if len(self.hour) == 24 and (again := self._in_repeated_hour(start, moment)) is not None:
            return again
        return moment

    def _in_repeated_hour(self, start: datetime, end: datetime) -> datetime | None:
        """The first run after clocks were set back between two moments, if that was before the second one.

        Of a run at certain hours there is one in such a night, the first. A run in every hour is one of elapsed time.
        """
        before, zone = start.utcoffset(), start.tzinfo
        after = end.astimezone(zone).utcoffset()
        if before is None or after is None or after >= before:
            return None
        low, high = start.astimezone(UTC), end
        while high - low > timedelta(seconds=1):
            middle = low + (high - low) / 2
            if middle.astimezone(zone).utcoffset() == before:
                low = middle
            else:
                high = middle
        clock = high.astimezone(zone).replace(tzinfo=None, second=0, microsecond=0)
        match = self._next_match(clock - timedelta(minutes=1))
        again = match.replace(tzinfo=zone, fold=1).astimezone(UTC)
        return again if start.astimezone(UTC) < again < end else None

    def _next_match(self, start: datetime) -> datetime:
        """The first minute after that of a local time that fits."""
        hours, minutes = sorted(self.hour), sorted(self.minute)
        if self._runs_on(start):
            if start.hour in self.hour and (later := [minute for minute in minutes if minute > start.minute]):
                return start.replace(minute=later[0], second=0, microsecond=0)
            if later := [hour for hour in hours if hour > start.hour]:
                return start.replace(hour=later[0], minute=minutes[0], second=0, microsecond=0)
        day = self._next_day(start)
        clock = start.replace(hour=hours[0], minute=minutes[0], second=0, microsecond=0)
        return clock.replace(year=day.year, month=day.month, day=day.day)

    def _runs_on(self, day: date) -> bool:
        fits = day.month in self.month_of_year and day.day in self.day_of_month
        return fits and day.isoweekday() % 7 in self.day_of_week

    def _next_day(self, after: date) -> date:
        year, month, first = after.year, after.month, after.day + 1
        for _ in range(_MONTHS_AHEAD):
            if month in self.month_of_year:
                leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
                last = _DAYS_IN_MONTH[month] - (month == 2 and not leap)
                for day in sorted(self.day_of_month):
                    if first <= day <= last and self._runs_on(found := date(year, month, day)):
                        return found
            year, month, first = (year, month + 1, 1) if month < 12 else (year + 1, 1, 1)
        raise RuntimeError(f"{self!r} never runs")

    def __repr__(self) -> str:
        fields = (
            self._orig_minute,
            self._orig_hour,
            self._orig_day_of_month,
            self._orig_month_of_year,
            self._orig_day_of_week,
        )
        return f"<crontab: {' '.join(map(str, fields))} (m/h/dM/MY/d)>"

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (
            self._orig_minute,
            self._orig_hour,
            self._orig_day_of_week,
            self._orig_day_of_month,
            self._orig_month_of_year,
        )
        return type(self), fields, self._orig_kwargs

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        BaseSchedule.__init__(self, **state)
        self._orig_kwargs = dict(state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, crontab):
            return NotImplemented
        return self._fields() == other._fields() and bool(super().__eq__(other))

    __hash__ = None

    def _fields(self) -> tuple[set[int], ...]:
        return self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year
