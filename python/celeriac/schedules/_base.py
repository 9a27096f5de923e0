"""What all schedules have, and the one that runs every so often."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac.utils.time import humanize_seconds, local_zone, maybe_make_aware, maybe_timedelta, remaining

if TYPE_CHECKING:
    from celeriac.app.base import Celery


class schedstate(NamedTuple):
    """What `is_due` answers."""

    #: The task is to be sent now.
    is_due: bool
    #: Seconds until it is worth asking again.
    next: float


class BaseSchedule:
    """A schedule. Subclasses answer `remaining_estimate` and `is_due`.

    Args:
        nowfun: Tells the time instead of the app's clock.
        app: Whose time zone counts; the current app's unless given.
    """

    def __init__(self, nowfun: Callable[[], datetime] | None = None, app: Celery | None = None) -> None:
        self.nowfun = nowfun
        self._app = app

    def now(self) -> datetime:
        """The time, by `nowfun` or the app."""
        return (self.nowfun or self.app.now)()

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until it is due, when it last ran then; negative when it is overdue."""
        raise NotImplementedError

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether it is due, when it last ran then, and in how many seconds to ask again."""
        raise NotImplementedError

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """Gives a naive date the app's zone."""
        return maybe_make_aware(dt, self.tz, naive_as_utc=naive_as_utc)

    @property
    def app(self) -> Celery:
        """The app whose time zone counts."""
        if self._app is None:
            from celeriac._state import get_current_app

            return get_current_app()
        return self._app

    @app.setter
    def app(self, app: Celery | None) -> None:
        self._app = app

    @cached_property
    def tz(self) -> tzinfo:
        """The zone in which fields are read."""
        return self.app.timezone

    @cached_property
    def utc_enabled(self) -> bool:
        """`enable_utc`."""
        return bool(self.app.conf.enable_utc)

    def to_local(self, dt: datetime) -> datetime:
        """A date in the machine's zone, where the app does not use UTC."""
        return dt if self.utc_enabled else maybe_make_aware(dt, local_zone(), naive_as_utc=False)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BaseSchedule):
            return other.nowfun == self.nowfun
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]


class schedule(BaseSchedule):
    """Every so often.

    Args:
        run_every: Seconds or a timedelta.
        relative: Run at full units of the interval (a day: at midnight) instead of counting from the first run.
        nowfun: Tells the time.
        app: Whose time zone counts.
    """

    relative: bool = False

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: Celery | None = None,
    ) -> None:
        self.run_every = maybe_timedelta(run_every)
        self.relative = relative
        super().__init__(nowfun=nowfun, app=app)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """See `BaseSchedule`."""
        start, now = self.maybe_make_aware(last_run_at), self.maybe_make_aware(self.now())
        return remaining(start, self.run_every or timedelta(), now, self.relative)

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """See `BaseSchedule`."""
        start = self.maybe_make_aware(last_run_at)
        left = self.remaining_estimate(start).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        following = self.seconds
        if self.relative:
            now = self.maybe_make_aware(self.now()).astimezone(start.tzinfo)
            to_boundary = self.remaining_estimate(now).total_seconds()
            following = to_boundary if to_boundary > 0 else following
        return schedstate(is_due=True, next=following)

    @property
    def seconds(self) -> float:
        """The interval; at least 0."""
        return max((self.run_every or timedelta()).total_seconds(), 0)

    @property
    def human_seconds(self) -> str:
        """The interval for people."""
        return humanize_seconds(self.seconds)

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __eq__(self, other: object) -> bool:
        return self.run_every == (other.run_every if isinstance(other, schedule) else other)

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_every, self.relative, self.nowfun)


def maybe_schedule(s: Any, relative: bool = False, app: Celery | None = None) -> Any:
    """A schedule from seconds or a timedelta; one that is a schedule gets the app.

    Args:
        s: Seconds, a timedelta, a schedule, or None, which stays None.
        relative: As of `schedule`.
        app: Whose time zone counts.
    """
    if s is None:
        return None
    if isinstance(s, (int, float)):
        s = timedelta(seconds=s)
    if isinstance(s, timedelta):
        return schedule(s, relative, app=app)
    s.app = app
    return s
