"""`LeaseScheduler`: any number may run; one holds the schedule, and each due moment is sent at most once.

1. It asks for the lease of the schedule, which the broker keeps, and stands by while another holds it.
2. Who has just got it reads what was sent before: when each entry was last due, in the broker.
3. It fires due moments: the store notes and publishes in one step, and refuses a moment that was noted before, or a holder
   whose lease is over. So it does not matter whether this process sleeps between two lines of this file.
4. Once a second it reads what users changed, and takes part in that.
5. A broker that is away is waited for. Moments that pass meanwhile are missed ones: `beat_missed_runs`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from celeriac.app.periodic import Change, open_schedule, read_changes, run_count, schedule_name
from celeriac.beat.firing import Firing, FiringClient
from celeriac.beat.moments import POLICIES, Due, Missed, due_moments, to_ms
from celeriac.beat.scheduler import Scheduler, logger
from celeriac.exceptions import ImproperlyConfigured, OperationalError

__all__ = ["LeaseScheduler"]

#: Seconds between two looks at what users changed, and at whether the lease is free.
LOOK_SECONDS = 1.0
#: A moment that is further in the future was noted by a host with another time.
CLOCKS_DIFFER = timedelta(minutes=1)
#: Seconds after which every entry is asked again.
ASK_SECONDS = 10.0
#: Seconds after which an entry that could not be sent is tried again: at first, and at the most.
RETRY_SECONDS = (1.0, 30.0)


class LeaseScheduler(Scheduler):
    """The scheduler that runs unless another is named (settings `beat_lease_seconds`, `beat_schedule_name`).

    All fields belong to the thread that ticks.
    """

    max_interval = LOOK_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Names this scheduler: no two have the same.
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:12]}"
        self.held = False
        self._client: FiringClient | None = None
        self._store: Any = None
        self._firing: Firing | None = None
        # The settings' entries, before users' changes.
        self._configured: dict[str, Any] = {}
        self._changes: dict[str, str] = {}
        # Entries whose first moment has been noted by someone.
        self._known: set[str] = set()
        # When to ask an entry again, and how long to wait after its next failure: monotonic seconds.
        self._ask_at: dict[str, float] = {}
        self._patience: dict[str, float] = {}
        self._renew_at = self._look_at = 0.0
        # What was logged last, so that waiting says it once.
        self._said: str | None = None
        super().__init__(*args, **kwargs)
        conf = self.app.conf
        self.lease = _positive("beat_lease_seconds", conf.beat_lease_seconds)
        self.name = schedule_name(self.app)
        self.max_interval = min(self.max_interval, LOOK_SECONDS, self.lease / 3)
        policy = conf.beat_missed_runs
        if policy not in POLICIES:
            raise ImproperlyConfigured(f"beat_missed_runs is one of {', '.join(POLICIES)}, not {policy!r}")
        limit = int(_positive("beat_missed_runs_limit", conf.beat_missed_runs_limit))
        self._missed = Missed(policy, limit, timedelta(seconds=max(10.0, 2 * self.lease)))

    # -- the schedule

    def setup_schedule(self) -> None:
        """Reads the settings' entries; when they last ran is in the broker, and read with the lease."""
        super().setup_schedule()
        self._configured = dict(self.data)

    def add(self, **kwargs: Any) -> Any:
        """Adds an entry to this process' schedule; `app.schedules.add` adds one for all beats."""
        entry = super().add(**kwargs)
        self._configured[entry.name] = entry
        return entry

    def _rebuild(self, changes: dict[str, str]) -> None:
        """Makes the schedule of the settings and of what users changed."""
        self._changes = changes
        read = read_changes(changes)
        schedule = {name: entry for name, entry in self._configured.items() if name not in read}
        for name, change in read.items():
            if (entry := self._changed(name, change)) is not None:
                schedule[name] = entry
        for name in {*schedule, *self.schedule}:
            if schedule.get(name) is not self.schedule.get(name):
                self._ask_at.pop(name, None)
        self.schedule = schedule

    def _changed(self, name: str, change: Change) -> Any:
        """The entry as users changed it; none when it is not to run."""
        if change.paused or change.removed:
            return None
        entry = self._configured.get(name)
        if change.entry is not None:
            try:
                entry = self._maybe_entry(name, change.entry)
            except Exception:
                logger.error("beat: the entry %r that was added at run time cannot be used", name, exc_info=True)
                return None
        before = self.schedule.get(name)
        if entry is not None and before is not None:
            entry.last_run_at, entry.total_run_count = before.last_run_at, before.total_run_count
        return entry

    # -- ticking

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Holds the lease, or stands by; sends what is due.

        Returns:
            Seconds until the next call.
        """
        try:
            if not self._hold():
                return self.max_interval
            self._look()
            return self._send_due()
        except OperationalError as exc:
            self._lose("the broker cannot be used: %s", exc)
            return self.max_interval

    def _hold(self) -> bool:
        now = time.monotonic()
        if self.held and now < self._renew_at:
            return True
        if self._store is None:
            self._connect()
        held, other = self._store.lease(self.holder, self.lease)
        if not held:
            self._lose("another beat holds the schedule %r%s", self.name, f" ({other})" if other else "")
            return False
        self._renew_at = now + self.lease / 3
        if not self.held:
            self._take_over()
        return True

    def _connect(self) -> None:
        front: Any = self.app.client
        self._client = front if isinstance(front, FiringClient) else self.app._engine.in_front(FiringClient)
        self._store = open_schedule(self.app)

    def _lose(self, why: str, *args: Any) -> None:
        self.held = False
        text = why % args
        if text != self._said:
            self._said = text
            level = logging.WARNING if args and isinstance(args[0], OperationalError) else logging.INFO
            logger.log(level, "beat: standing by: %s", text)

    def _take_over(self) -> None:
        """Begins to hold: whatever was remembered here may be old."""
        state = self._store.state()
        self._ask_at.clear()
        self._rebuild(state["changes"])
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._known = set(state["entries"])
        for name, entry in self.schedule.items():
            self._remember(name, entry, state["entries"].get(name))
        self.held, self._said = True, None
        logger.info("beat: holding the schedule %r with %d entries", self.name, len(self.schedule))

    def _remember(self, name: str, entry: Any, kept: tuple[int, str] | None) -> None:
        """Sets when an entry was last due: what the store says, or since when a user wants it to run."""
        change = read_changes(self._changes).get(name)
        moments = [change.since_ms] if change is not None and change.since_ms else []
        if kept is not None:
            moments.append(kept[0])
            entry.total_run_count = run_count(kept[1])
        # What nobody has seen before is known from now on.
        last = datetime.fromtimestamp(max(moments) / 1000, UTC) if moments else entry.default_now()
        entry.last_run_at = last.astimezone(self.app.timezone)
        ahead = last.astimezone(UTC) - datetime.now(UTC)
        if kept is not None and ahead > CLOCKS_DIFFER:
            logger.warning(
                "beat: %s was last due %s from now, by the clock of another host, and is not sent until then: "
                "do all hosts have the right time?",
                name,
                ahead,
            )

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        try:
            state = self._store.state()
        except OperationalError as exc:
            # What is due goes out all the same, if the broker takes it.
            logger.warning("beat: cannot tell whether somebody changed the schedule: %s", exc)
            return
        if state["changes"] == self._changes:
            return
        before = set(self._changes.items())
        self._rebuild(state["changes"])
        for name, _ in before ^ set(self._changes.items()):
            if (entry := self.schedule.get(name)) is not None:
                self._remember(name, entry, state["entries"].get(name))
                self._ask_at.pop(name, None)

    def _send_due(self) -> float:
        soonest = time.monotonic() + self.max_interval
        for name, entry in list(self.schedule.items()):
            if not self.held:
                return 0
            if self._ask_at.get(name, 0.0) <= time.monotonic():
                # Not for long: somebody may set the clock.
                wait = min(max(self._serve(name, entry), 0.0), ASK_SECONDS)
                self._ask_at[name] = time.monotonic() + wait
            soonest = min(soonest, self._ask_at[name])
            # A long list must not cost the lease.
            self._hold()
        return max(soonest - time.monotonic(), 0.0)

    # -- one entry

    def _serve(self, name: str, entry: Any) -> float:
        """Sends what is due of an entry; gives the seconds until it is to be asked again."""
        if name not in self._known and not self._note_first(name, entry):
            return 0.0
        try:
            due = due_moments(entry, self._missed)
        except Exception:
            return self._is_due_failed(entry)[1]
        if not due.moments and due.skipped is None:
            return due.wait
        return self._fire_all(name, entry, due)

    def _note_first(self, name: str, entry: Any) -> bool:
        """Notes since when an entry is known: from then on its moments count, whoever holds the schedule."""
        now = to_ms(entry.last_run_at.astimezone(UTC))
        entry.last_run_at = datetime.fromtimestamp(now / 1000, UTC).astimezone(self.app.timezone)
        return self._note(name, entry, now)

    def _note(self, name: str, entry: Any, due_ms: int) -> bool:
        outcome = self._make(entry, due_ms, entry.total_run_count).fire()
        if outcome == "not-holder":
            self.held = False
            return False
        self._known.add(name)
        return True

    def _fire_all(self, name: str, entry: Any, due: Due) -> float:
        for moment in due.moments:
            outcome = self._fire(entry, moment)
            if outcome == "not-holder":
                self.held = False
                return 0.0
            if outcome == "failed":
                wait = self._patience.get(name, RETRY_SECONDS[0])
                self._patience[name] = min(2 * wait, RETRY_SECONDS[1])
                return wait
            self._patience.pop(name, None)
            entry = self._advance(name, entry, moment, counts=outcome == "sent")
        if due.skipped is not None:
            logger.warning("beat: %s was due at %s, too long ago to be sent", name, due.skipped)
            if self._note(name, entry, to_ms(due.skipped)):
                self._advance(name, entry, due.skipped, counts=False)
        return 0.0

    def _advance(self, name: str, entry: Any, moment: datetime, *, counts: bool) -> Any:
        following = entry._next_instance(last_run_at=moment.astimezone(self.app.timezone))
        if not counts:
            following.total_run_count = entry.total_run_count
        self.schedule[name] = following
        if self._configured.get(name) is entry:
            self._configured[name] = following
        return following

    def _fire(self, entry: Any, moment: datetime) -> str:
        """Sends one moment: `sent`, `already`, `not-holder`, or `failed` when it is worth another try."""
        assert self._client is not None
        firing = self._firing = self._make(entry, to_ms(moment), entry.total_run_count + 1)
        try:
            with self._client.firing(firing):
                self.apply_entry(entry, producer=self.producer)
        finally:
            self._firing = None
        if firing.outcome is not None:
            return firing.outcome
        if isinstance(firing.failure, OperationalError):
            return "failed"
        # It cannot be sent at all, or went another way: eager, or through another app. Not again in either case.
        outcome = firing.fire()
        return outcome

    def _make(self, entry: Any, due_ms: int, count: int) -> Firing:
        task_id = uuid5(NAMESPACE_URL, f"celeriac:beat:{self.name}/{entry.name}/{due_ms}")
        state = json.dumps({"count": count})
        return Firing(self._store, self.holder, self.lease, entry.name, due_ms, state, str(task_id))

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """As `Scheduler.apply_async`; remembers why it failed."""
        try:
            return super().apply_async(entry, producer=producer, advance=advance, **kwargs)
        except Exception as exc:
            if self._firing is not None:
                self._firing.failure = exc.__cause__ or exc
            raise

    def _moment_ms(self) -> int:
        return super()._moment_ms() if self._firing is None else self._firing.due_ms

    def _message_options(self, entry: Any) -> dict[str, Any]:
        options = super()._message_options(entry)
        if self._firing is not None:
            # The same id whoever sends this moment, and however often it is tried.
            options.setdefault("task_id", self._firing.task_id)
        return options

    def close(self) -> None:
        """Gives the lease back, so that another takes over at once."""
        super().close()
        if self._store is not None and self.held:
            self.held = False
            try:
                self._store.release(self.holder)
            except OperationalError as exc:
                logger.info("beat: the lease was not given back and will run out: %s", exc)

    @property
    def info(self) -> str:
        """A line for the banner."""
        return f"    . schedule -> {self.name}, kept in the broker"


def _positive(setting: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if number <= 0:
        raise ImproperlyConfigured(f"{setting} must be a number above 0, not {value!r}")
    return number
