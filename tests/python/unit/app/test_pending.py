"""`task_track_pending`: what was sent is known before it begins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery, chain, chord, group
from celeriac.app.pending import knows_all
from celeriac.exceptions import ImproperlyConfigured
from celeriac.result.record import build_record


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    url = f"memory://{tmp_path.name}"
    with Celery("unit", broker=url, backend=url, task_track_pending=True) as app:

        @app.task(name="add")
        def add(*numbers: Any) -> int:
            return sum(numbers)

        yield app


def known(app: Celery, *results: Any) -> list[bool]:
    records = app.client.read([getattr(result, "id", result) for result in results])
    assert {record.state for record in records if record is not None} <= {"PENDING"}
    return [record is not None for record in records]


def test_every_way_of_sending_leaves_a_record(app: Celery) -> None:
    add = app.tasks["add"]
    sent = [add.delay(1), add.apply_async((1,), serializer="json"), app.send_task("elsewhere")]
    sent += add.delay_many((n,) for n in range(3))
    sent += [asyncio.run(add.adelay(1)), *asyncio.run(app.asend_many([add.s(1)]))]

    assert all(known(app, *sent))
    assert knows_all(app)
    assert known(app, "never sent") == [False]


def test_what_follows_in_a_workflow_is_known_from_the_start(app: Celery) -> None:
    add = app.tasks["add"]
    last = chain(add.s(1), add.s(2), add.s(3))()
    members = group(add.s(n) for n in range(3))()
    body = chord([add.s(1), add.s(2)], add.s())()
    long = (add.s(1) | group(add.s(2), add.s(3)) | add.s())()
    linked = add.apply_async((1,), link=add.s(5).set(task_id="the-link"))

    assert all(known(app, last, last.parent, last.parent.parent, *members, body, long, linked, "the-link"))


def test_nobody_may_ask_for_a_task_whose_result_is_ignored(app: Celery) -> None:
    assert known(app, app.tasks["add"].apply_async((1,), ignore_result=True)) == [False]


def test_what_a_worker_has_stored_stays(app: Celery) -> None:
    app.client.store([build_record(app, "t", "SUCCESS", 5)])

    app.tasks["add"].apply_async((1,), task_id="t")

    assert app.AsyncResult("t").get(timeout=10) == 5


def test_it_is_off_unless_asked_for(tmp_path: Path) -> None:
    url = f"memory://off-{tmp_path.name}"
    with Celery("off", broker=url, backend=url) as app:
        assert known(app, app.send_task("x")) == [False]
        assert not knows_all(app)


def test_a_backend_that_keeps_no_records_is_an_error() -> None:
    with Celery("rpc", broker="amqp://127.0.0.1:1//", backend="rpc://", task_track_pending=True) as app:
        assert app.results_enabled
        with pytest.raises(ImproperlyConfigured, match="keeps none"):
            app.send_task("x")
