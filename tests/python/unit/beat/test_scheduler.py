"""What classes written for Celery's beat extend and call."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery, signals
from celeriac.beat import (
    BeatLazyFunc,
    EmbeddedService,
    LeaseScheduler,
    PersistentScheduler,
    ScheduleEntry,
    Scheduler,
    SchedulingError,
    Service,
)
from celeriac.beat.service import scheduler_class
from celeriac.exceptions import ImproperlyConfigured
from celeriac.schedules import crontab


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("unit", broker="memory://scheduler") as app:
        app.conf.beat_schedule = {"a": {"task": "t", "schedule": 10, "args": (1,)}}
        yield app
        app.client.purge("celery")


class Recording(Scheduler):
    """Sends nothing."""

    sent: list[tuple[str, Any]]

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        self.sent = [*getattr(self, "sent", []), (args[0], kwargs)]


def overdue(scheduler: Any, name: str = "a", by: float = 11) -> Any:
    entry = scheduler.schedule[name]
    entry.last_run_at -= timedelta(seconds=by)
    return entry


def test_a_tick_sends_what_is_due_and_says_when_to_come_again(app: Celery) -> None:
    scheduler = Recording(app)

    assert 0 < scheduler.tick() <= 10
    assert not hasattr(scheduler, "sent")
    overdue(scheduler)
    scheduler._heap = None

    assert scheduler.tick() == 0
    assert [name for name, _ in scheduler.sent] == ["t"]
    assert scheduler.schedule["a"].total_run_count == 1
    assert scheduler.tick() > 0
    assert len(scheduler.sent) == 1


def test_an_entry_that_cannot_be_asked_does_not_stop_the_others(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    scheduler = Recording(app)

    class Broken(ScheduleEntry):
        def is_due(self) -> Any:
            raise ZeroDivisionError

    scheduler.schedule["0"] = Broken(name="0", task="broken", schedule=1, app=app)
    overdue(scheduler)

    for _ in range(4):
        scheduler.tick()

    assert [name for name, _ in scheduler.sent] == ["t"]
    assert "cannot tell when '0' is due" in caplog.text


def test_messages_carry_beats_mark_and_lazy_arguments_are_computed(app: Celery) -> None:
    app.conf.beat_schedule = {
        "a": {
            "task": "t",
            "schedule": 10,
            "args": (BeatLazyFunc(lambda x: x + 1, 1),),
            "kwargs": {"k": BeatLazyFunc(str, 5)},
            "options": {"queue": "q", "headers": {"mine": 1}},
        }
    }
    scheduler = Recording(app)
    scheduler.apply_async(scheduler.schedule["a"])

    [(_, options)] = scheduler.sent
    assert options["headers"] == {"mine": 1, "celery_beat_task": True}
    assert options["queue"] == "q"
    assert app.conf.beat_schedule["a"]["options"]["headers"] == {"mine": 1}


def test_a_failure_is_a_scheduling_error_that_names_the_entry(app: Celery) -> None:
    class Failing(Scheduler):
        def send_task(self, *args: Any, **kwargs: Any) -> Any:
            raise OSError("no route")

    scheduler = Failing(app)

    with pytest.raises(SchedulingError, match="a: no route"):
        scheduler.apply_async(scheduler.schedule["a"])
    scheduler.apply_entry(scheduler.schedule["a"])


def test_merging_keeps_when_entries_last_ran_and_drops_what_is_gone(app: Celery) -> None:
    scheduler = Recording(app)
    old = overdue(scheduler).last_run_at
    scheduler.add(name="mine", task="m", schedule=5)

    scheduler.merge_inplace({"a": {"task": "other", "schedule": 20}, "b": {"task": "b", "schedule": 1}})

    assert set(scheduler.schedule) == {"a", "b"}
    assert scheduler.schedule["a"].task == "other"
    assert scheduler.schedule["a"].last_run_at == old


def test_the_cleanup_entry_is_for_backends_that_do_not_clean_up(app: Celery) -> None:
    assert "celery.backend_cleanup" not in Recording(app).schedule

    with Celery("db", broker="memory://", backend="db+sqlite:///r.db", set_as_current=False) as other:
        entry = Scheduler(other, lazy=True)
        entry.install_default_entries({})

    assert entry.schedule["celery.backend_cleanup"].schedule == crontab("0", "4", "*")
    assert entry.schedule["celery.backend_cleanup"].options == {"expires": 12 * 3600}


def test_entries_are_pickled_compared_and_advanced_as_celerys(app: Celery) -> None:
    entry = ScheduleEntry(name="a", task="t", schedule=10, args=(1,), app=app)
    copy = pickle.loads(pickle.dumps(entry))

    assert copy == entry
    assert copy.last_run_at == entry.last_run_at
    following = next(entry)
    assert (following.total_run_count, following.name) == (1, "a")
    assert following.last_run_at >= entry.last_run_at
    assert entry != ScheduleEntry(name="a", task="t", schedule=11, args=(1,), app=app)
    assert repr(entry).startswith("<ScheduleEntry: a t(1) <freq: 10.00 seconds>")


class DatabaseStyle(Scheduler):
    """As django-celery-beat's: entries of a class of its own, a schedule that is read anew when it changes."""

    class Entry(ScheduleEntry):
        saved: list[str] = []

        def is_due(self) -> tuple[bool, float]:
            return (True, 5.0) if self.total_run_count == 0 else (False, 5.0)

        def save(self) -> None:
            self.saved.append(self.name or "")

    _schedule: dict[str, Any] | None = None
    reads = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._dirty: set[str] = set()
        super().__init__(*args, **kwargs)
        self.max_interval = kwargs.get("max_interval") or 5

    def setup_schedule(self) -> None:
        self.install_default_entries(self.schedule)
        self.update_from_dict(self.app.conf.beat_schedule)

    def reserve(self, entry: Any) -> Any:
        following = super().reserve(entry)
        self._dirty.add(following.name)
        return following

    def sync(self) -> None:
        for name in sorted(self._dirty):
            self.schedule[name].save()
        self._dirty.clear()

    @property
    def schedule(self) -> Any:
        if self._schedule is None:
            type(self).reads += 1
            self._schedule = {}
        return self._schedule


def test_a_scheduler_in_celerys_style_runs_unchanged(app: Celery) -> None:
    service = Service(app, scheduler_cls=DatabaseStyle, max_interval=1)
    started: list[Any] = []

    def begun(sender: Any, **kwargs: Any) -> None:
        started.append(sender)

    signals.beat_init.connect(begun)
    scheduler = service.scheduler
    tick = scheduler.tick

    def ticks_then_stop(*args: Any) -> float:
        wait: float = tick(*args)
        if app.client.queues() and app.client.queues()[0]["ready"]:
            service.stop()
        return min(wait, 0.01)

    scheduler.tick = ticks_then_stop
    try:
        service.start()
    finally:
        signals.beat_init.disconnect(begun)

    assert started == [service]
    assert DatabaseStyle.reads == 1
    assert DatabaseStyle.Entry.saved == ["a"]
    assert app.client.queues()[0]["ready"] == 1


def test_schedulers_are_found_by_path_and_by_celerys_names(app: Celery) -> None:
    assert scheduler_class(app) is LeaseScheduler
    assert scheduler_class(app, "celery.beat:PersistentScheduler") is PersistentScheduler
    assert scheduler_class(app, "celery.beat.Scheduler") is Scheduler
    app.conf.beat_scheduler = "celery.beat:Scheduler"
    assert scheduler_class(app) is Scheduler
    with pytest.raises(ImproperlyConfigured, match="no_such"):
        scheduler_class(app, "no_such.module:Scheduler")


def test_the_file_remembers_and_a_file_of_another_kind_is_replaced(app: Celery, tmp_path: Path) -> None:
    path = tmp_path / "beat"
    path.write_bytes(b"\x00shelve")
    first = PersistentScheduler(app, schedule_filename=str(path))
    entry = overdue(first, by=4)
    first.schedule["a"] = next(entry)
    first.close()

    second = PersistentScheduler(app, schedule_filename=str(path))

    assert second.schedule["a"].total_run_count == 1
    assert second.schedule["a"].last_run_at == first.schedule["a"].last_run_at
    assert json.loads(path.read_text())["entries"]["a"][1] == 1
    app.conf.timezone = "Europe/Berlin"
    assert PersistentScheduler(app, schedule_filename=str(path)).schedule["a"].total_run_count == 0


def test_an_embedded_service_in_a_thread_ends_when_it_is_told(app: Celery) -> None:
    service = EmbeddedService(app, thread=True, scheduler_cls=Recording)
    service.start()
    service.stop()
    service.join(30)

    assert not service.is_alive()


EMBEDDED = """
import time
from celeriac import Celery
from celeriac.beat import EmbeddedService

app = Celery("embedded", broker="sqlite:///queue.db")
app.conf.beat_schedule = {"a": {"task": "t", "schedule": 0.05}}
beat = EmbeddedService(app)
beat.start()
deadline = time.monotonic() + 30
while sum(queue["ready"] for queue in app.client.queues()) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
beat.stop()
beat.join(30)
print(beat.exitcode, sum(queue["ready"] for queue in app.client.queues()) >= 2)
"""


def test_an_embedded_service_in_a_process_sends_and_ends_when_it_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", EMBEDDED], capture_output=True, text=True, check=False, timeout=90)

    assert done.stdout.split() == ["0", "True"], done.stderr


def test_now_is_that_of_the_schedule(app: Celery) -> None:
    moment = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    entry = ScheduleEntry(name="a", task="t", schedule=crontab(nowfun=lambda: moment), app=app)

    assert entry.default_now() == entry.last_run_at == moment
