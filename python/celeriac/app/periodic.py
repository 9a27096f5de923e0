"""`app.schedules`: periodic tasks as they are, and changes to them while beats run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from celeriac.schedules import BaseSchedule, crontab, maybe_schedule, schedule, solar

if TYPE_CHECKING:
    from celeriac._core import Schedule
    from celeriac.app.base import Celery
    from celeriac.result.async_result import AsyncResult

__all__ = ["Change", "PeriodicTask", "Schedules", "open_schedule", "read_changes", "run_count", "schedule_name"]


def schedule_name(app: Celery) -> str:
    """Under which name the broker keeps the schedule: `beat_schedule_name`, or the app's."""
    return str(app.conf.beat_schedule_name or app.main or "celery")


def open_schedule(app: Celery) -> Schedule:
    """What the broker keeps of the app's schedule, by this process' client."""
    from celeriac._core import Schedule

    return Schedule(app._engine.core, schedule_name(app))


@dataclass(frozen=True, slots=True)
class Change:
    """What users changed of an entry. Kept in the broker as JSON."""

    #: It is not sent until it is resumed.
    paused: bool = False
    #: An entry of the settings that is not wanted.
    removed: bool = False
    #: Moments until then do not count (milliseconds since the epoch).
    since_ms: int | None = None
    #: The entry, where it was added at run time; its schedule as `_schedule_to_json` has it.
    added: dict[str, Any] | None = None

    @property
    def entry(self) -> dict[str, Any] | None:
        """What was added, as `beat_schedule` has entries."""
        if self.added is None:
            return None
        return {**self.added, "schedule": _schedule_from_json(self.added["schedule"])}

    def dumps(self) -> str:
        """As the broker keeps it."""
        return json.dumps({name: value for name, value in asdict(self).items() if value})


def read_changes(changes: Mapping[str, str]) -> dict[str, Change]:
    """What the broker keeps, read; what a later version may have added is left out."""
    known = Change.__dataclass_fields__.keys()
    read = {}
    for name, text in changes.items():
        try:
            found = json.loads(text)
            read[name] = Change(**{key: value for key, value in found.items() if key in known})
        except (ValueError, AttributeError):
            continue
    return read


def run_count(state: str) -> int:
    """How often an entry was sent, by what beats keep of it."""
    try:
        return int(json.loads(state)["count"])
    except (ValueError, KeyError, TypeError):
        return 0


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """An entry, as `app.schedules.list()` tells of it."""

    name: str
    task: str
    schedule: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    #: `settings` or `added`.
    source: str = "settings"
    paused: bool = False
    removed: bool = False
    #: The last moment that was sent, or skipped; None: no beat has seen it yet.
    last_run_at: datetime | None = None
    total_run_count: int = 0
    #: The next moment; None while it is paused, or when its schedule does not tell.
    next_run_at: datetime | None = None


class Schedules:
    """Periodic tasks of an app, in the broker that beats share. Beats notice a change within a second or so.

    Example:
        >>> app.schedules.pause("nightly-report")
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def list(self) -> list[PeriodicTask]:
        """All entries, by name: those of the settings, and those added at run time."""
        state = self._state()
        changes = read_changes(state["changes"])
        entries = self._configured()
        added = {name: change.entry for name, change in changes.items() if change.entry is not None}
        tasks = []
        for name in sorted({*entries, *added}):
            found = added.get(name) or entries[name]
            kept = state["entries"].get(name)
            tasks.append(self._describe(name, found, changes.get(name, Change()), kept, name in added))
        return tasks

    def get(self, name: str) -> PeriodicTask:
        """One entry.

        Raises:
            KeyError: There is none of that name.
        """
        for task in self.list():
            if task.name == name:
                return task
        known = ", ".join(sorted(task.name for task in self.list())) or "none"
        raise KeyError(f"there is no periodic task {name!r}; known: {known}")

    def holder(self) -> str | None:
        """The beat that holds the schedule (host, process, and a name of its own); None: no one, or RabbitMQ, which
        does not tell."""
        holder: str | None = self._state()["holder"]
        return holder

    def add(
        self,
        name: str,
        schedule: Any,
        task: Any,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        relative: bool = False,
    ) -> None:
        """Adds an entry, or replaces the one of that name.

        Args:
            name: Its name.
            schedule: Seconds, a timedelta, a `schedule`, `crontab` or `solar`.
            task: The task, or its name.
            args: Positional arguments, as JSON can have them.
            kwargs: Keyword arguments, likewise.
            options: As for `apply_async`, likewise.
            relative: For seconds: as of `schedule`.

        Raises:
            ValueError: The entry cannot be kept as JSON.
        """
        entry = {
            "task": getattr(task, "name", task),
            "schedule": _schedule_to_json(maybe_schedule(schedule, relative, app=self._app)),
            "args": list(args),
            "kwargs": dict(kwargs or {}),
            "options": dict(options or {}),
        }
        try:
            text = Change(added=entry, since_ms=_now_ms()).dumps()
        except TypeError as exc:
            raise ValueError(f"the entry {name!r} is kept as JSON, and has something that JSON cannot: {exc}") from exc
        self._change(name, text)

    def pause(self, name: str) -> None:
        """Stops sending an entry, on all beats, until it is resumed.

        Raises:
            KeyError: There is none of that name.
        """
        self.get(name)
        self._alter(name, paused=True)

    def resume(self, name: str) -> None:
        """Goes on with an entry that was paused, or removed from the settings' ones. What it missed is not made up.

        Raises:
            KeyError: There is none of that name.
        """
        self.get(name)
        self._alter(name, paused=False, removed=False, since_ms=_now_ms())

    def remove(self, name: str) -> None:
        """Takes an entry out: one that was added is gone; one of the settings is not sent until it is resumed.

        Raises:
            KeyError: There is none of that name.
        """
        self.get(name)
        if name in self._configured():
            self._alter(name, removed=True, added=None)
        else:
            self._change(name, None)

    def run_now(self, name: str) -> AsyncResult[Any]:
        """Sends an entry's task now, beside its moments, whether or not a beat runs.

        Raises:
            KeyError: There is none of that name.
        """
        found = self.get(name)
        app = self._app
        from celeriac.app.admission import entry_options

        options = entry_options(found.options, name)
        options = {**options, "headers": {**(options.get("headers") or {}), "celery_beat_task": True}}
        task = app.tasks.get(found.task)
        args = [value() if callable(value) else value for value in found.args]
        kwargs = {key: value() if callable(value) else value for key, value in found.kwargs.items()}
        if task is not None:
            result: AsyncResult[Any] = task.apply_async(args, kwargs, **options)
            return result
        return app.send_task(found.task, args, kwargs, **options)

    # -- the store

    def _configured(self) -> Mapping[str, Any]:
        self._app.finalize(auto=True)
        entries: Mapping[str, Any] = self._app.conf.beat_schedule
        return entries

    def _state(self) -> dict[str, Any]:
        return open_schedule(self._app).state()

    def _alter(self, name: str, **fields: Any) -> None:
        before = read_changes(self._state()["changes"]).get(name, Change())
        self._change(name, Change(**{**asdict(before), **fields}).dumps())

    def _change(self, name: str, text: str | None) -> None:
        open_schedule(self._app).change(name, text)

    def _describe(
        self, name: str, entry: Any, change: Change, kept: tuple[int, str] | None, added: bool
    ) -> PeriodicTask:
        fields = entry if isinstance(entry, Mapping) else dict(entry)
        when = maybe_schedule(fields["schedule"], fields.get("relative", False), app=self._app)
        last = None if kept is None else datetime.fromtimestamp(kept[0] / 1000, UTC).astimezone(self._app.timezone)
        return PeriodicTask(
            name=name,
            task=str(fields["task"]),
            schedule=when,
            args=tuple(fields.get("args") or ()),
            kwargs=dict(fields.get("kwargs") or {}),
            options=dict(fields.get("options") or {}),
            source="added" if added else "settings",
            paused=change.paused,
            removed=change.removed,
            last_run_at=last,
            total_run_count=0 if kept is None else run_count(kept[1]),
            next_run_at=None if change.paused or change.removed else self._next(when, last, change),
        )

    def _next(self, when: Any, last: datetime | None, change: Change) -> datetime | None:
        since = datetime.fromtimestamp((change.since_ms or 0) / 1000, UTC).astimezone(self._app.timezone)
        start = max((moment for moment in (last, since) if moment is not None), default=since)
        if last is None and not change.since_ms:
            start = self._app.now()
        try:
            left: timedelta = when.remaining_estimate(start)
        except NotImplementedError:
            return None
        # The tenth of a second is of no interest, and comes from asking for the time twice.
        moment: datetime = when.now() + left + timedelta(milliseconds=50)
        return moment.replace(microsecond=moment.microsecond // 100_000 * 100_000)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _schedule_to_json(when: Any) -> dict[str, Any]:
    if type(when) is schedule:
        return {"every": when.seconds, "relative": when.relative}
    if type(when) is crontab:
        return {"crontab": [_cron_field(value) for value in when.__reduce__()[1]]}
    if type(when) is solar:
        return {"solar": list(when.__reduce__()[1])}
    kind = type(when).__name__
    hint = "name seconds, a timedelta, a crontab or a solar; a schedule of your own belongs into beat_schedule"
    raise ValueError(f"a schedule of class {kind} cannot be added at run time: {hint}")


def _cron_field(value: Any) -> str | int:
    return value if isinstance(value, (str, int)) else ",".join(str(number) for number in sorted(value))


def _schedule_from_json(found: Mapping[str, Any]) -> BaseSchedule:
    if "crontab" in found:
        return crontab(*found["crontab"])
    if "solar" in found:
        return solar(*found["solar"])
    return schedule(found["every"], relative=found["relative"])
