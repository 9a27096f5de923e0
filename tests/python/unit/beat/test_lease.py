"""The scheduler that any number may run of, on a store in memory and with a clock that the test moves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celeriac import Celery
from celeriac.beat import LeaseScheduler, Scheduler
from celeriac.exceptions import ImproperlyConfigured, OperationalError
from celeriac.schedules import schedule

_numbers = itertools.count()


class Clock:
    """A time that stands still."""

    def __init__(self) -> None:
        self.now = datetime(2026, 6, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(clock: Clock) -> Iterator[Celery]:
    with Celery("unit", broker=f"memory://lease{next(_numbers)}") as app:
        app.conf.beat_schedule = {"a": {"task": "t", "schedule": schedule(10, nowfun=clock)}}
        yield app


@pytest.fixture
def waiting(app: Celery) -> Callable[[], int]:
    """How many messages were sent."""
    return lambda: sum(queue["ready"] for queue in app.client.queues())


def tick(scheduler: LeaseScheduler) -> float:
    """As if a second or more had passed."""
    scheduler._ask_at.clear()
    scheduler._look_at = 0.0
    scheduler._renew_at = 0.0
    return scheduler.tick()


def test_each_moment_is_sent_once_by_whoever_holds_the_schedule(
    app: Celery, clock: Clock, waiting: Callable[[], int]
) -> None:
    first, second = LeaseScheduler(app), LeaseScheduler(app)
    tick(first)
    tick(second)
    assert (first.held, second.held) == (True, False)

    for _ in range(5):
        clock.forward(10)
        tick(first)
        tick(second)
    assert waiting() == 5

    first.close()
    clock.forward(10)
    tick(second)
    assert second.held
    assert waiting() == 6
    clock.forward(9)
    tick(second)
    assert waiting() == 6


def test_a_holder_that_slept_sends_nothing_that_another_has_sent(
    app: Celery, clock: Clock, waiting: Callable[[], int]
) -> None:
    first, second = LeaseScheduler(app), LeaseScheduler(app)
    tick(first)
    clock.forward(10)
    tick(first)
    # As if its lease had run out while it slept: it does not know.
    app_store = first._store
    app_store.release(first.holder)
    clock.forward(10)
    tick(second)
    assert (first.held, second.held, waiting()) == (True, True, 2)

    first._ask_at.clear()
    first._renew_at = first._look_at = float("inf")
    first.tick()

    assert waiting() == 2
    assert not first.held


def test_missed_moments_are_one_run_unless_the_settings_say_otherwise(
    app: Celery, clock: Clock, waiting: Callable[[], int]
) -> None:
    tick(first := LeaseScheduler(app))
    first.close()
    clock.forward(95)

    tick(second := LeaseScheduler(app))
    assert waiting() == 1
    assert second.schedule["a"].last_run_at == clock.now - timedelta(seconds=5)
    second.close()

    app.conf.beat_missed_runs = "all"
    clock.forward(50)
    tick(third := LeaseScheduler(app))
    assert waiting() == 6
    third.close()

    app.conf.beat_missed_runs = "skip"
    clock.forward(58)
    app.conf.beat_lease_seconds = 0.1
    tick(LeaseScheduler(app))
    assert waiting() == 7


def test_an_entry_is_first_due_after_its_first_interval_and_counts_are_kept(
    app: Celery, clock: Clock, waiting: Callable[[], int]
) -> None:
    tick(scheduler := LeaseScheduler(app))
    assert waiting() == 0
    clock.forward(10)
    tick(scheduler)
    scheduler.close()

    tick(again := LeaseScheduler(app))

    assert again.schedule["a"].total_run_count == 1
    [listed] = app.schedules.list()
    assert (listed.total_run_count, listed.last_run_at) == (1, clock.now)


def test_what_users_change_is_noticed_and_missed_moments_of_a_pause_are_not_made_up(
    app: Celery, clock: Clock, waiting: Callable[[], int]
) -> None:
    tick(scheduler := LeaseScheduler(app))
    app.schedules.pause("a")
    clock.forward(10)
    tick(scheduler)
    assert (waiting(), app.schedules.get("a").paused) == (0, True)

    app.schedules.resume("a")
    scheduler._look_at = 0.0
    entry_since = app.schedules.get("a")
    tick(scheduler)
    assert not entry_since.paused
    assert "a" in scheduler.schedule
    # It counts from the moment of the resuming, which is a real one: later than this test's clock.
    assert scheduler.schedule["a"].last_run_at > clock.now
    clock.now = datetime.now(UTC) + timedelta(seconds=11)
    tick(scheduler)
    assert waiting() == 1


def test_entries_added_at_run_time_run_and_survive_a_change_of_the_holder(
    app: Celery, clock: Clock, waiting: Callable[[], int]
) -> None:
    tick(first := LeaseScheduler(app))
    app.schedules.add("b", 0.001, "other", args=[1], options={"queue": "celery"})
    tick(first)
    assert set(first.schedule) == {"a", "b"}

    def sends() -> bool:
        tick(first)
        return waiting() > 0

    assert any(sends() for _ in range(10_000))
    first.close()
    tick(second := LeaseScheduler(app))
    assert set(second.schedule) == {"a", "b"}
    app.schedules.remove("b")
    app.schedules.remove("a")
    tick(second)
    assert set(second.schedule) == set()
    assert [(task.name, task.removed) for task in app.schedules.list()] == [("a", True)]
    app.schedules.resume("a")
    tick(second)
    assert set(second.schedule) == {"a"}


def test_run_now_needs_no_beat(app: Celery, waiting: Callable[[], int]) -> None:
    result = app.schedules.run_now("a")

    assert result.id
    assert waiting() == 1
    with pytest.raises(KeyError, match="no periodic task 'nope'"):
        app.schedules.run_now("nope")


def test_only_what_json_can_hold_is_added_at_run_time(app: Celery) -> None:
    with pytest.raises(ValueError, match="JSON"):
        app.schedules.add("b", 1, "t", args=[object()])

    class Mine(schedule):
        pass

    with pytest.raises(ValueError, match="Mine cannot be added"):
        app.schedules.add("b", Mine(1), "t")


def test_an_entry_that_cannot_be_encoded_is_lost_once_and_not_tried_for_ever(
    app: Celery, clock: Clock, waiting: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.beat_schedule = {"a": {"task": "t", "schedule": schedule(10, nowfun=clock), "args": (object(),)}}
    tick(scheduler := LeaseScheduler(app))
    clock.forward(10)
    tick(scheduler)
    tick(scheduler)

    assert waiting() == 0
    assert caplog.text.count("Message Error") == 1
    assert scheduler.schedule["a"].last_run_at == clock.now


def test_a_moment_is_tried_again_while_the_broker_is_away(
    app: Celery, clock: Clock, waiting: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tick(scheduler := LeaseScheduler(app))
    clock.forward(10)
    store, fired = scheduler._store, []

    class Away:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def fire(self, *args: Any) -> str:
            fired.append(args[3])
            raise OperationalError("away")

    scheduler._store = Away()
    tick(scheduler)
    tick(scheduler)
    assert (waiting(), len(fired), len(set(fired))) == (0, 2, 1)

    scheduler._store = store
    tick(scheduler)
    assert waiting() == 1


def test_ids_follow_from_the_moment_so_that_all_beats_find_the_same(app: Celery) -> None:
    ids = set()
    for _ in range(2):
        scheduler = LeaseScheduler(app)
        scheduler._store = object()
        ids.add(scheduler._make(scheduler.schedule["a"], 1000, 1).task_id)
    assert len(ids) == 1
    assert scheduler._make(scheduler.schedule["a"], 2000, 1).task_id not in ids


def test_schedules_of_two_names_do_not_meet(app: Celery, clock: Clock) -> None:
    tick(first := LeaseScheduler(app))
    app.conf.beat_schedule_name = "another"
    tick(second := LeaseScheduler(app))

    assert first.held
    assert second.held


@pytest.mark.parametrize(
    ("setting", "value"), [("beat_missed_runs", "twice"), ("beat_lease_seconds", 0), ("beat_missed_runs_limit", -1)]
)
def test_wrong_settings_are_refused_at_the_start(app: Celery, setting: str, value: Any) -> None:
    app.conf[setting] = value

    with pytest.raises(ImproperlyConfigured, match=setting):
        LeaseScheduler(app)


def test_tasks_and_libraries_that_send_in_their_own_way_are_sent_once_all_the_same(
    app: Celery, clock: Clock, waiting: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Mine(app.Task):  # type: ignore[name-defined,misc]
        def apply_async(self, *args: Any, **options: Any) -> Any:
            seen.append("task")
            return super().apply_async(*args, **options)

    app.task(name="t", base=Mine)(lambda: None)
    apply_entry = Scheduler.apply_entry

    def patched(scheduler: Any, entry: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(entry.name)
        apply_entry(scheduler, entry, *args, **kwargs)

    monkeypatch.setattr(Scheduler, "apply_entry", patched)
    tick(scheduler := LeaseScheduler(app))
    clock.forward(10)
    tick(scheduler)
    tick(scheduler)

    assert seen == ["a", "task"]
    assert waiting() == 1
    assert app.schedules.get("a").total_run_count == 1


def test_an_eager_task_runs_here_and_its_moment_is_noted(app: Celery, clock: Clock, waiting: Callable[[], int]) -> None:
    runs: list[int] = []
    app.task(name="t")(lambda: runs.append(1))
    app.conf.task_always_eager = True
    tick(first := LeaseScheduler(app))
    clock.forward(10)
    tick(first)
    first.close()

    tick(LeaseScheduler(app))

    assert (len(runs), waiting()) == (1, 0)


def test_a_moment_of_a_host_with_another_time_is_told(
    app: Celery, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.now = datetime.now(UTC) + timedelta(hours=2)
    tick(first := LeaseScheduler(app))
    first.close()
    clock.now = datetime.now(UTC)

    tick(LeaseScheduler(app))

    assert "do all hosts have the right time?" in caplog.text


def test_changes_that_cannot_be_read_do_not_keep_entries_from_being_sent(
    app: Celery, clock: Clock, waiting: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    tick(scheduler := LeaseScheduler(app))
    store = scheduler._store

    class Locked:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def state(self) -> Any:
            raise OperationalError("locked")

    scheduler._store = Locked()
    clock.forward(10)
    tick(scheduler)

    assert waiting() == 1
    assert "cannot tell whether somebody changed the schedule" in caplog.text
