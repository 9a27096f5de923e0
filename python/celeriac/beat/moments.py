"""Which moments of an entry are due, and what becomes of those that were missed.

A moment follows from the one before it, not from when that was sent: so a schedule does not drift, and every scheduler finds
the same moments, and the same ids of their messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from celeriac.schedules import crontab, schedule, solar
from celeriac.utils.time import maybe_make_aware

__all__ = ["POLICIES", "Due", "Missed", "due_moments", "to_ms"]

#: Values of `beat_missed_runs`.
POLICIES = ("skip", "once", "all")
#: Missed moments of a crontab that are looked at.
_LOOK_BACK = timedelta(days=7)
#: Moments of a schedule of one's own that are looked at.
_MOST = 20_000


@dataclass(frozen=True, slots=True)
class Missed:
    """What is done about missed moments (settings `beat_missed_runs`, `beat_missed_runs_limit`).

    `once`: the latest due moment stands for all. `skip`: the same, but nothing is sent when it was due longer than
    `grace` ago. `all`: each is sent, the oldest first; of more than `limit` the latest.
    """

    policy: str = "once"
    limit: int = 100
    grace: timedelta = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be sent of an entry now."""

    #: Moments to send, the oldest first.
    moments: tuple[datetime, ...] = ()
    #: The last moment that is over without being sent.
    skipped: datetime | None = None
    #: Seconds until it is worth asking again, when there is nothing.
    wait: float = 0.0


@contextmanager
def _standing_still(schedule: Any, now: datetime) -> Iterator[None]:
    """Lets a schedule see one time in several questions, so that its answers are exact."""
    before = getattr(schedule, "nowfun", None)
    schedule.nowfun = lambda: now
    try:
        yield
    finally:
        schedule.nowfun = before


def due_moments(entry: Any, missed: Missed) -> Due:
    """What is to be sent of an entry now. Asks its schedule, which may be of any class."""
    when, now = entry.schedule, maybe_make_aware(entry.default_now())
    with _standing_still(when, now):
        due, wait = entry.is_due()
        if not due:
            return Due(wait=wait if isinstance(wait, (int, float)) else 60.0)
        moments = _moments(when, entry.last_run_at, now, missed.limit if missed.policy == "all" else 1)
    deadline = when.app.conf.beat_cron_starting_deadline if isinstance(when, crontab) else None
    if deadline is not None:
        oldest = now - timedelta(seconds=deadline)
        moments = [moment for moment in moments if moment >= oldest] or moments[-1:]
    if missed.policy == "skip" and now - moments[-1] > missed.grace:
        return Due(skipped=moments[-1])
    return Due(moments=tuple(moments))


def _moments(when: Any, last: datetime, now: datetime, limit: int) -> list[datetime]:
    """The latest moments until now, `limit` at the most, oldest first; at least one."""
    last = maybe_make_aware(last)
    first = _after(when, last, now)
    if first is None or first > now:
        # It says that it is due, and not since when.
        return [_whole_ms(now)]
    if type(when) is schedule and not when.relative:
        every = timedelta(seconds=when.seconds)
        behind = (now - first) // every if every else 0
        latest = [first + every * step for step in range(max(0, behind - limit + 1), behind + 1)]
        return [_whole_ms(moment) for moment in latest]
    if isinstance(when, (crontab, solar)) and now - first > _LOOK_BACK:
        recent = _after(when, now - _LOOK_BACK, now)
        first = recent if recent is not None and recent <= now else first
    moments = deque([_whole_ms(first)], maxlen=limit)
    for _ in range(_MOST):
        following = _after(when, moments[-1].astimezone(last.tzinfo), now)
        if following is None or following > now or _whole_ms(following) <= moments[-1]:
            break
        moments.append(_whole_ms(following))
    return list(moments)


def _after(when: Any, last: datetime, now: datetime) -> datetime | None:
    """The moment that follows another; none when the schedule cannot tell."""
    try:
        left: timedelta = when.remaining_estimate(last)
    except NotImplementedError:
        return None
    return now.astimezone(UTC) + left if isinstance(left, timedelta) else None


def _whole_ms(moment: datetime) -> datetime:
    """Moments are kept in milliseconds."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def to_ms(moment: datetime) -> int:
    """Milliseconds since the epoch."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
