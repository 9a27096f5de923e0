"""What a batch task and a store of large payloads may be is told where they are declared; eager runs follow the same rules."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from celeriac import Batch
from celeriac.app.base import Celery
from celeriac.exceptions import ImproperlyConfigured, Reject


@pytest.fixture
def app() -> Celery:
    return Celery("batches", broker="memory://", backend="memory://", set_as_current=False)


@pytest.mark.parametrize(
    "options", [{"max_size": 0}, {"max_size": 1.5}, {"max_size": True}, {"max_wait": -1}, {"max_wait": "1"}]
)
def test_a_batch_of_no_sense_is_refused(options: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="of a batch"):
        Batch(**options)


def test_a_function_that_does_not_take_a_list_is_refused_where_it_stands(app: Celery) -> None:
    with pytest.raises(ImproperlyConfigured, match="takes one argument, the list of requests"):

        @app.task(batch=Batch())
        def two(x: int, y: int) -> None: ...

    with pytest.raises(ImproperlyConfigured, match=r"use celeriac\.Batch"):

        @app.task(batch=100)
        def number(requests: Any) -> None: ...

    @app.task(bind=True, batch=Batch())
    def bound(self: Any, requests: Any) -> None: ...


def test_calls_of_a_batch_task_take_any_arguments(app: Celery) -> None:
    @app.task(batch=Batch())
    def insert(requests: Any) -> None: ...

    insert.delay(1, 2, three=3)


def test_an_eager_call_is_a_batch_of_one(app: Celery) -> None:
    @app.task(batch=Batch(), max_retries=2, default_retry_delay=0)
    def ends(requests: Any) -> Any:
        [request] = requests
        match request.args[0]:
            case "ack":
                request.ack("acked")
            case "fail":
                request.fail(KeyError("no"))
            case "dead":
                request.dead_letter("bad")
            case "again":
                if request.retries < 2:
                    request.retry(countdown=0)
                return [request.retries]
            case "boom":
                raise ValueError("boom")
            case "twice":
                request.ack()
                request.ack()
        return {request.id: "by id"}

    assert ends.apply(("plain",)).get() == "by id"
    assert ends.apply(("ack",)).get() == "acked"
    assert ends.apply(("again",)).get() == 2
    with pytest.raises(KeyError):
        ends.apply(("fail",)).get()
    with pytest.raises(ValueError, match="boom"):
        ends.apply(("boom",)).get()
    dead = ends.apply(("dead",))
    assert (dead.state, type(dead.result)) == ("REJECTED", Reject)


def test_a_request_ends_once(app: Celery) -> None:
    told = []

    @app.task(batch=Batch())
    def twice(requests: Any) -> None:
        requests[0].ack()
        try:
            requests[0].fail(ValueError("late"))
        except RuntimeError as exc:
            told.append(str(exc))
        try:
            requests[0].fail("text")
        except TypeError as exc:
            told.append(str(exc))

    twice.apply(()).get()
    assert "has ended already" in told[0]
    assert "fails with an exception" in told[1]


@pytest.mark.parametrize(
    ("store", "why"),
    [
        ("file://host/path", "absolute/directory"),
        ("file:///", "absolute/directory"),
        ("s3://bucket", "is not known"),
        (object(), "has no method put"),
    ],
)
def test_a_store_of_no_sense_is_refused_when_it_is_first_used(app: Celery, store: Any, why: str) -> None:
    app.conf.large_payload_store = store
    with pytest.raises(ImproperlyConfigured, match=why):
        _ = app.large_payloads


def test_a_store_is_given_in_four_ways(app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own:
        def put(self, data: bytes, ttl: float | None) -> str:
            return "r" * 2000 if data == b"long" else "reference"

        def get(self, reference: str) -> bytes:
            return b"data"

        def delete(self, reference: str) -> None: ...

    module: Any = ModuleType("own_payloads")
    module.store = Own()
    monkeypatch.setitem(sys.modules, "own_payloads", module)
    for store in (tmp_path, f"file://{tmp_path}/a%20b", "backend", "own_payloads:store", Own, Own()):
        other = Celery("stores", broker="memory://", backend="memory://", set_as_current=False)
        other.conf.large_payload_store = store
        payloads = other.large_payloads
        assert payloads is not None
        assert payloads.get(payloads.put(b"data", 60)) == b"data"
    with pytest.raises(ImproperlyConfigured, match="text of up to 1024"):
        payloads.put(b"long", 60)
    app.conf.update(large_payload_store=Own(), large_payload_size=1000)
    with pytest.raises(ImproperlyConfigured, match="65536 at the least"):
        _ = app.large_payloads
