"""Tasks that get many calls at once: gathered in slots, run together."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac import Celery, Task
from celeriac.app.context import Context
from celeriac.exceptions import ImproperlyConfigured
from celeriac.worker import batches


class Batches(Task):
    """What is known of celery_batches.Batches."""

    abstract = True
    flush_every = 3
    flush_interval = 30.0

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Any:
        raise AssertionError("only Celery's worker calls it")

    def flush(self, requests: list[Any]) -> Any:
        def run(task: Any, given: list[Any]) -> None:
            task.run(given)

        return self._pool.apply_async(run, (self, requests), accept_callback=lambda pid, when: None)


class Slots:
    """A child's slots: threads that run one request each."""

    def __init__(self, task: Any, monkeypatch: pytest.MonkeyPatch, count: int = 10) -> None:
        self.answers: list[tuple[int, str]] = []
        monkeypatch.setattr(batches, "slots", count)
        monkeypatch.setattr(batches, "_gathered", {})
        respond = lambda tag, kind, *rest: self.answers.append((tag, kind))  # noqa: E731
        tracer: Any = SimpleNamespace(channel=SimpleNamespace(respond=respond), limit=SimpleNamespace(running=None))
        self._tracer = batches.BatchTracer(tracer, task)
        self._threads: list[threading.Thread] = []

    def start(self, tag: int) -> None:
        request = Context(id=str(tag), task="t", args=[tag], kwargs={}, delivery_info={}, hostname="w")
        thread = threading.Thread(target=self._tracer.run, args=(tag, request), daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def app() -> Celery:
    return Celery("batches", broker="memory://", set_as_current=False)


def batch_task(app: Celery, seen: list[list[int]], **options: Any) -> Any:
    def run(requests: list[Any]) -> None:
        seen.append(sorted(one.args[0] for one in requests))
        if options.get("fails"):
            raise ValueError("bad batch")

    return app.task(run, base=Batches, name="t", **options)


def test_the_call_that_completes_a_batch_runs_it_and_all_are_answered(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    slots = Slots(batch_task(app, seen), monkeypatch)

    for tag in range(6):
        slots.start(tag)
    slots.join()

    assert sorted(tag for batch in seen for tag in batch) == list(range(6))
    assert [len(batch) for batch in seen] == [3, 3]
    assert sorted(slots.answers) == [(tag, "ignored") for tag in range(6)]


def test_the_first_call_does_not_wait_for_ever(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    slots = Slots(batch_task(app, seen, flush_interval=0.05), monkeypatch)

    slots.start(1)
    slots.join()

    assert seen == [[1]]


def test_a_batch_that_fails_is_logged_and_answered(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[list[int]] = []
    slots = Slots(batch_task(app, seen, flush_every=1, fails=True), monkeypatch)

    slots.start(1)
    slots.join()

    assert (seen, slots.answers) == ([[1]], [(1, "ignored")])
    assert "A batch of 1 calls of task t failed" in caplog.text


def test_a_child_with_one_slot_makes_batches_of_one(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    slots = Slots(batch_task(app, seen), monkeypatch, count=1)

    for tag in (1, 2):
        slots.start(tag)
    slots.join()

    assert sorted(seen) == [[1], [2]]


def test_a_worker_says_which_batches_will_be_small(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    batch_task(app, [])
    with caplog.at_level(logging.WARNING):
        batches.warn_of_batches(app, 3, one_process=True)
        assert caplog.text == ""
        batches.warn_of_batches(app, 8, one_process=False)
        batches.warn_of_batches(app, 2, one_process=True)

    assert "a process of this pool holds one" in caplog.text
    assert "this worker has 2 slots" in caplog.text
    assert "-P threads" in caplog.text


def test_another_strategy_is_refused_at_the_start(app: Celery) -> None:
    class Odd(Task):
        abstract = True

        def Strategy(self, task: Any, app: Any, consumer: Any) -> Any:
            """Celery's worker would call it."""

    app.task(lambda: None, base=Odd, name="odd")
    with pytest.raises(ImproperlyConfigured, match="odd brings a Strategy of its own"):
        batches.warn_of_batches(app, 1, one_process=False)
