"""`self.progress`: what is stored, what is kept for later, and what a call costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celeriac import Celery
from celeriac.app import progress as module
from celeriac.result.record import read_record


class Child:
    """Takes the place of a worker's child: what was sent to the supervisor, in order."""

    def __init__(self, app: Celery, **request: Any) -> None:
        self.app = app
        self.sent: list[Any] = []

        @app.task(bind=True, name="work")
        def work(self: Any) -> None:
            """Runs in no worker."""

        self.task: Any = app.tasks["work"]
        app._child_update = lambda tag, record: self.sent.append((tag, read_record(app, record)))
        self.task.push_request(**{"id": "t", "_tag": 7, "called_directly": False, **request})
        self.request = self.task.request

    def done(self) -> list[Any]:
        return [record["result"]["done"] for _, record in self.sent]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Stands still; nobody wakes the flusher."""
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    monkeypatch.setattr(module._flusher, "add", lambda meter: None)
    return now


def test_the_first_is_stored_and_then_so_many_a_second(app: Celery, clock: list[float]) -> None:
    assert app.conf.task_progress_rate == 5
    app.conf.task_progress_rate = 4
    child = Child(app)

    for number in range(100):
        child.task.progress(number, 100, "counting", file="a.png")
        clock[0] += 1 / 64

    assert child.done() == [0, 16, 32, 48, 64, 80, 96]
    tag, record = child.sent[0]
    assert tag == 7
    assert record["status"] == "PROGRESS"
    assert record["result"] == {"done": 0, "total": 100, "message": "counting", "file": "a.png"}


def test_the_rate_is_a_setting_and_zero_stores_each(app: Celery, clock: list[float]) -> None:
    app.conf.task_progress_rate = 0
    child = Child(app)

    for number in range(10):
        child.task.progress(number)

    assert child.done() == list(range(10))


def test_the_newest_is_stored_though_no_call_follows(app: Celery) -> None:
    child = Child(app)

    for number in range(10):
        child.task.progress(number)

    deadline = time.monotonic() + 30
    while child.done() != [0, 9]:
        assert time.monotonic() < deadline, child.done()
        time.sleep(0.005)


def test_nothing_is_stored_after_the_end(app: Celery, clock: list[float]) -> None:
    child = Child(app)
    child.task.progress(1)
    child.task.progress(2)

    child.request._meter.close()
    clock[0] += 10
    child.request._meter.flush()
    child.task.progress(3)

    assert child.done() == [1]


@pytest.mark.parametrize("request_", [{"id": None}, {"ignore_result": True}, {"is_eager": True}])
def test_nothing_is_told_where_nobody_could_read_it(app: Celery, request_: dict[str, Any]) -> None:
    child = Child(app, **request_)

    child.task.progress(1, 2)

    assert child.sent == []


def test_what_cannot_be_encoded_is_an_error_of_the_call(app: Celery, clock: list[float]) -> None:
    child = Child(app)

    with pytest.raises(Exception, match="object"):
        child.task.progress(object())


def test_a_call_that_is_not_stored_costs_little(app: Celery, clock: list[float], figure: Callable[[str], None]) -> None:
    child = Child(app)
    child.task.progress(0)
    tell = child.task.progress

    started = time.perf_counter()
    for _ in range(20_000):
        tell(1, 2, "counting")
    each = (time.perf_counter() - started) / 20_000 * 1e6

    assert child.done() == [0]
    figure(f"progress that is not stored: {each:.2f} µs a call")
