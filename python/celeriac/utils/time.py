"""Dates as they travel in messages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

__all__ = ["make_aware", "maybe_iso8601", "maybe_timedelta", "parse_iso8601", "to_milliseconds", "zone"]


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
    local = datetime.now().astimezone().tzinfo
    return UTC if local is None else local
