"""An entry of a schedule: which task is sent, with what, when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import total_ordering
from typing import Any

from celeriac.schedules import maybe_schedule

__all__ = ["BeatLazyFunc", "ScheduleEntry", "evaluate"]

#: What a user may change of an entry.
EDITABLE = ("task", "schedule", "args", "kwargs", "options")


class BeatLazyFunc:
    """An argument of an entry that is computed when it is sent.

    Example:
        >>> kwargs = {"day": BeatLazyFunc(datetime.date.today)}
    """

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._func_params = {"args": args, "kwargs": kwargs}

    def __call__(self) -> Any:
        return self.delay()

    def delay(self) -> Any:
        """Computes it."""
        params: Any = self._func_params
        return self._func(*params["args"], **params["kwargs"])


def evaluate(value: Any) -> Any:
    """An argument as it is sent."""
    return value() if isinstance(value, BeatLazyFunc) else value


@total_ordering
class ScheduleEntry:
    """An entry of a schedule.

    Args:
        name: Its name.
        task: Name of the task.
        last_run_at: When it was last due; now, unless given.
        total_run_count: How often it was sent.
        schedule: Seconds, a timedelta or a schedule.
        args: Positional arguments of the task.
        kwargs: Keyword arguments of the task.
        options: As for `apply_async`.
        relative: For seconds: as of `schedule`.
        app: The app.
    """

    def __init__(
        self,
        name: str | None = None,
        task: str | None = None,
        last_run_at: datetime | None = None,
        total_run_count: int | None = None,
        schedule: Any = None,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        relative: bool = False,
        app: Any = None,
    ) -> None:
        self.app = app
        self.name = name
        self.task = task
        self.args = args
        self.kwargs = kwargs or {}
        self.options = options or {}
        self.schedule = maybe_schedule(schedule, relative, app=app)
        self.last_run_at = last_run_at or self.default_now()
        self.total_run_count = total_run_count or 0

    def default_now(self) -> datetime:
        """The time, by the entry's schedule."""
        now: datetime = self.schedule.now() if self.schedule else self.app.now()
        return now

    _default_now = default_now

    def _next_instance(self, last_run_at: datetime | None = None) -> ScheduleEntry:
        """The same, once it was sent."""
        fields = dict(self)
        fields["last_run_at"] = last_run_at or self.default_now()
        fields["total_run_count"] = self.total_run_count + 1
        return type(self)(**fields)

    __next__ = next = _next_instance

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.name,
            self.task,
            self.last_run_at,
            self.total_run_count,
            self.schedule,
            self.args,
            self.kwargs,
            self.options,
        )

    def update(self, other: ScheduleEntry) -> None:
        """Takes over what users edit; when it last ran stays."""
        for field in EDITABLE:
            setattr(self, field, getattr(other, field))

    def is_due(self) -> tuple[bool, float]:
        """Whether it is due, and in how many seconds to ask again."""
        answer: tuple[bool, float] = self.schedule.is_due(self.last_run_at)
        return answer

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).items())

    def __repr__(self) -> str:
        given = [*map(repr, self.args or ()), *(f"{key}={value!r}" for key, value in self.kwargs.items())]
        return f"<{type(self).__name__}: {self.name} {self.task}({', '.join(given)}) {self.schedule}>"

    def editable_fields_equal(self, other: Any) -> bool:
        """Whether nothing differs that a user may edit."""
        return all(getattr(self, field) == getattr(other, field) for field in EDITABLE)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScheduleEntry) and self.editable_fields_equal(other)

    def __lt__(self, other: object) -> bool:
        # Any order does: a heap asks only when all else is equal.
        return id(self) < id(other) if isinstance(other, ScheduleEntry) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
