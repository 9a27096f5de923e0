"""`Scheduler`: what every scheduler can do; the base of classes written for Celery.

It remembers nothing beyond its process, and two of them send everything twice: what runs unless a class is named is
`celeriac.beat.lease`.
"""

from __future__ import annotations

import copy
import heapq
import logging
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

from celeriac.app import stores
from celeriac.app.admission import entry_options
from celeriac.beat.entry import ScheduleEntry, evaluate
from celeriac.exceptions import DuplicateTask
from celeriac.schedules import crontab
from celeriac.utils.time import humanize_seconds, maybe_make_aware

__all__ = ["DEFAULT_MAX_INTERVAL", "NotSent", "Scheduler", "SchedulingError"]

logger = logging.getLogger("celery.beat")

#: Seconds between two looks at the schedule, at the most.
DEFAULT_MAX_INTERVAL = 300


class SchedulingError(Exception):
    """An entry could not be sent."""


class NotSent(Exception):
    """An entry was not sent by this scheduler, because another one did, or will."""


class event_t(NamedTuple):
    """A place in the heap."""

    time: float
    priority: int
    entry: Any


class Scheduler:
    """Sends entries when they are due.

    Args:
        app: The app.
        schedule: Its entries, or something that is called for them.
        max_interval: Seconds between two looks, at the most.
        Producer: Called for `producer`, which custom `apply_async` methods of tasks get.
        lazy: Set up no schedule: only to be asked about itself.
        sync_every_tasks: As `beat_sync_every`.
        **kwargs: For subclasses.
    """

    Entry: Any = ScheduleEntry
    #: Seconds between two looks, at the most, when no setting says it.
    max_interval: float = DEFAULT_MAX_INTERVAL
    #: Seconds between two calls of `sync`.
    sync_every: float = 3 * 60
    #: Entries sent between two calls of `sync`; None: by time alone.
    sync_every_tasks: int | None = None
    logger = logger

    _last_sync: float | None = None
    _tasks_since_sync = 0

    def __init__(
        self,
        app: Any,
        schedule: Any = None,
        max_interval: float | None = None,
        Producer: Any = None,  # noqa: N803 -- its name in Celery
        lazy: bool = False,
        sync_every_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        given = schedule() if callable(schedule) else schedule
        self.data: dict[str, Any] = {} if given is None else given
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or self.max_interval
        self.Producer = Producer
        self._heap: list[event_t] | None = None
        self.old_schedulers: dict[str, Any] | None = None
        self.sync_every_tasks = app.conf.beat_sync_every if sync_every_tasks is None else sync_every_tasks
        if not lazy:
            self.setup_schedule()

    # -- the schedule

    def setup_schedule(self) -> None:
        """Reads the settings' entries. Called once, by the constructor."""
        self.install_default_entries(self.data)
        self.merge_inplace(self.app.conf.beat_schedule)

    def install_default_entries(self, data: Mapping[str, Any]) -> None:
        """Adds `celery.backend_cleanup`, where the result backend does not clean up by itself."""
        name = "celery.backend_cleanup"
        if self.app.conf.result_expires and name not in data and stores.needs_cleanup(self.app):
            entry = {"task": name, "schedule": crontab("0", "4", "*"), "options": {"expires": 12 * 3600}}
            self.update_from_dict({name: entry})

    def get_schedule(self) -> Any:
        """The entries by name."""
        return self.data

    def set_schedule(self, schedule: Any) -> None:
        """Replaces the entries."""
        self.data = schedule

    schedule = property(
        lambda self: self.get_schedule(),
        lambda self, schedule: self.set_schedule(schedule),
        doc="The entries by name; subclasses override `get_schedule` and `set_schedule`, or this.",
    )

    def add(self, **kwargs: Any) -> Any:
        """Adds an entry, given as the arguments of one."""
        entry = self.Entry(app=self.app, **kwargs)
        self.schedule[entry.name] = entry
        return entry

    def _maybe_entry(self, name: str, entry: Any) -> Any:
        if isinstance(entry, self.Entry):
            entry.app = self.app
            return entry
        return self.Entry(**dict(entry, name=name, app=self.app))

    def update_from_dict(self, dict_: Mapping[str, Any]) -> None:
        """Adds entries as `beat_schedule` has them."""
        self.schedule.update({name: self._maybe_entry(name, entry) for name, entry in dict_.items()})

    def merge_inplace(self, b: Mapping[str, Any]) -> None:
        """Makes the schedule that of the settings. When an entry last ran stays; what is not in them goes."""
        schedule = self.schedule
        for name in set(schedule) - set(b):
            schedule.pop(name, None)
        for name, fields in b.items():
            entry = self.Entry(**dict(fields, name=name, app=self.app))
            if schedule.get(name):
                schedule[name].update(entry)
            else:
                schedule[name] = entry

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """Whether two schedules have equal entries."""
        if old_schedules is None or new_schedules is None:
            return old_schedules is new_schedules
        if set(old_schedules.keys()) != set(new_schedules.keys()):
            return False
        return all(new_schedules.get(name) == entry for name, entry in old_schedules.items())

    # -- ticking

    def adjust(self, n: float, drift: float = -0.010) -> float:
        """A wait, a little shorter, so that what is done then is in time."""
        return n + drift if n and n > 0 else n

    def is_due(self, entry: Any) -> tuple[bool, float]:
        """Whether an entry is due, and when to ask again."""
        answer: tuple[bool, float] = entry.is_due()
        return answer

    def _is_due_failed(self, entry: Any) -> tuple[bool, float]:
        """An entry that cannot be asked must not keep the others waiting."""
        interval = humanize_seconds(self.max_interval)
        logger.error("beat: cannot tell when %r is due, trying again in %s", entry.name, interval, exc_info=True)  # noqa: LOG014 -- called in handlers
        return False, self.max_interval

    def _when(self, entry: Any, next_time_to_run: float) -> float:
        """So many seconds from now, as seconds since the epoch."""
        return maybe_make_aware(entry.default_now()).timestamp() + (self.adjust(next_time_to_run) or 0)

    def populate_heap(self, event_t: Any = event_t, heapify: Any = heapq.heapify) -> None:
        """Puts all entries in the order in which they are due."""
        heap = []
        for entry in self.schedule.values():
            try:
                due, wait = entry.is_due()
            except Exception:
                due, wait = self._is_due_failed(entry)
            heap.append(event_t(self._when(entry, 0 if due else wait or 0), 5, entry))
        heapify(heap)
        self._heap = heap

    def tick(
        self, event_t: Any = event_t, min: Any = min, heappop: Any = heapq.heappop, heappush: Any = heapq.heappush
    ) -> float:
        """Sends the next entry if it is due.

        Returns:
            Seconds until the next call.
        """
        if self._heap is None or not self.schedules_equal(self.old_schedulers, self.schedule):
            self.old_schedulers = copy.copy(self.schedule)
            self.populate_heap()
        heap = self._heap
        if not heap:
            return self.max_interval
        event = heap[0]
        entry = event.entry
        early = event.time - self._when(entry, 0)
        if early > 0:
            return float(min(early, self.max_interval))
        try:
            due, wait = self.is_due(entry)
        except Exception:
            due, wait = self._is_due_failed(entry)
        heappop(heap)
        if due:
            following = self.reserve(entry)
            self.apply_entry(entry, producer=self.producer)
            heappush(heap, event_t(self._when(following, wait), event.priority, following))
            return 0
        wait = wait if isinstance(wait, (int, float)) else self.max_interval
        heappush(heap, event_t(self._when(entry, wait), event.priority, entry))
        # Another entry may have come to the top.
        return 0 if heap[0].entry is not entry else float(min(self.adjust(wait), self.max_interval))

    def reserve(self, entry: Any) -> Any:
        """Notes that an entry was sent now; gives what takes its place."""
        new_entry = self.schedule[entry.name] = next(entry)
        return new_entry

    # -- sending

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Sends an entry, and logs how that went."""
        logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        try:
            result = self.apply_async(entry, producer=producer, advance=False)
        except NotSent as exc:
            logger.info("%s was not sent: %s", entry.name, exc)
        except Exception as exc:
            logger.error("Message Error: %s", exc, exc_info=True)
        else:
            task_id = getattr(result, "id", None)
            logger.debug("%s sent%s", entry.task, f". id->{task_id}" if task_id else ".")

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Sends an entry.

        Args:
            entry: The entry.
            producer: Given to the task.
            advance: Note first that it was sent, so that a failure is not repeated for ever.
            **kwargs: For subclasses.

        Raises:
            SchedulingError: It cannot be sent.
        """
        entry = self.reserve(entry) if advance else entry
        try:
            args = [evaluate(value) for value in entry.args or ()]
            named = {key: evaluate(value) for key, value in (entry.kwargs or {}).items()}
            options = self._message_options(entry)
            task = self.app.tasks.get(entry.task)
            if task:
                return task.apply_async(args, named, producer=producer, **options)
            return self.send_task(entry.task, args, named, producer=producer, **options)
        except NotSent:
            raise
        except DuplicateTask as exc:
            raise NotSent(f"the one before is queued or runs ({exc.task_id})") from exc
        except Exception as exc:
            raise SchedulingError(f"Couldn't apply scheduled task {entry.name}: {exc}") from exc
        finally:
            self._tasks_since_sync += 1
            if self.should_sync():
                self._do_sync()

    def _message_options(self, entry: Any) -> dict[str, Any]:
        options = entry_options(entry.options or {}, entry.name, self._moment_ms())
        options["headers"] = {**(options.get("headers") or {}), "celery_beat_task": True}
        return options

    def _moment_ms(self) -> int:
        """The moment that is being sent."""
        return time.time_ns() // 1_000_000

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Sends a task that is not registered here."""
        return self.app.send_task(*args, **kwargs)

    @cached_property
    def producer(self) -> Any:
        """What `Producer` makes; none, unless one was given: the engine needs none."""
        return self.Producer() if self.Producer is not None else None

    # -- remembering

    def should_sync(self) -> bool:
        """Whether it is time for `sync`."""
        if self._last_sync is None or time.monotonic() - self._last_sync > self.sync_every:
            return True
        return bool(self.sync_every_tasks and self._tasks_since_sync >= self.sync_every_tasks)

    def _do_sync(self) -> None:
        try:
            logger.debug("beat: Synchronizing schedule...")
            self.sync()
        finally:
            self._last_sync = time.monotonic()
            self._tasks_since_sync = 0

    def sync(self) -> None:
        """Writes down what has to outlive the process; for subclasses."""

    def close(self) -> None:
        """Called once at the end."""
        self.sync()

    @property
    def info(self) -> str:
        """A line for the banner."""
        return ""
