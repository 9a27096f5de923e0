"""`solar`: at events of the sun."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, NamedTuple

from celeriac.exceptions import ImproperlyConfigured
from celeriac.schedules._base import BaseSchedule, schedstate


class _Event(NamedTuple):
    """How ephem finds an event."""

    method: str
    horizon: str
    use_center: bool


_EVENTS = {
    "dawn_astronomical": _Event("next_rising", "-18", use_center=True),
    "dawn_nautical": _Event("next_rising", "-12", use_center=True),
    "dawn_civil": _Event("next_rising", "-6", use_center=True),
    "sunrise": _Event("next_rising", "-0:34", use_center=False),
    "solar_noon": _Event("next_transit", "0", use_center=False),
    "sunset": _Event("next_setting", "-0:34", use_center=False),
    "dusk_civil": _Event("next_setting", "-6", use_center=True),
    "dusk_nautical": _Event("next_setting", "-12", use_center=True),
    "dusk_astronomical": _Event("next_setting", "-18", use_center=True),
}


class solar(BaseSchedule):
    """At an event of the sun, seen from a place. Needs the package `ephem`.

    Args:
        event: dawn_astronomical, dawn_nautical, dawn_civil, sunrise, solar_noon, sunset, dusk_civil, dusk_nautical or
            dusk_astronomical.
        lat: Latitude in degrees, north positive.
        lon: Longitude in degrees, east positive.
        **kwargs: `nowfun` and `app`.

    Raises:
        ImproperlyConfigured: `ephem` is not installed.
        ValueError: There is no such event or place.
    """

    #: Days to look ahead for an event that does not happen every day.
    max_search_days = 366

    def __init__(self, event: str, lat: float, lon: float, **kwargs: Any) -> None:
        try:
            self.ephem: Any = import_module("ephem")
        except ImportError as exc:
            raise ImproperlyConfigured("solar schedules need the package ephem: pip install ephem") from exc
        super().__init__(**kwargs)
        if event not in _EVENTS:
            raise ValueError(f'Argument event "{event}" is invalid, must be one of {", ".join(sorted(_EVENTS))}.')
        if not -90 <= lat <= 90:
            raise ValueError(f"Argument latitude {lat} is invalid, must be between -90 and 90.")
        if not -180 <= lon <= 180:
            raise ValueError(f"Argument longitude {lon} is invalid, must be between -180 and 180.")
        self.event, self.lat, self.lon = event, lat, lon
        self.method, horizon, self.use_center = _EVENTS[event]
        self.cal = self.ephem.Observer()
        self.cal.lat, self.cal.lon = str(lat), str(lon)
        self.cal.elev = self.cal.pressure = 0
        self.cal.horizon = horizon

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """See `BaseSchedule`. Where the event does not happen for a year: until it is worth looking again."""
        start = self.maybe_make_aware(last_run_at).astimezone(UTC)
        self.cal.date = start
        event = self._next_event(self.ephem.Date(start)).datetime().replace(tzinfo=UTC)
        moment: timedelta = event - self.maybe_make_aware(self.now()).astimezone(UTC)
        return moment

    def _next_event(self, start: Any) -> Any:
        sun = self.ephem.Sun()
        options = {"use_center": True} if self.use_center else {}
        for _ in range(self.max_search_days):
            try:
                return getattr(self.cal, self.method)(sun, start=start, **options)
            except self.ephem.CircumpolarError:
                # Not on that day: the sun stays above or below. On from the next midnight.
                start = self.cal.next_antitransit(sun, start=start)
        return start

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """See `BaseSchedule`."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        return schedstate(is_due=True, next=max(self.remaining_estimate(self.now()).total_seconds(), 0))

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.event, self.lat, self.lon)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, solar):
            return (self.event, self.lat, self.lon) == (other.event, other.lat, other.lon)
        return NotImplemented

    __hash__ = None
