"""Many calls at once: `delay_many`, `send_many` and their twins for coroutines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from celeriac import Celery, chain
from celeriac.app import batch
from celeriac.exceptions import EncodeError, OperationalError
from celeriac.signals import after_task_publish, before_task_publish


class Outbox:
    """Stands in for the engine's client; keeps the batches."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.wanted: list[bool] = []
        #: The number of the batch that fails.
        self.fails: int | None = None

    def publish(self, publications, timeout, retry, wanted):
        if self.fails == len(self.batches):
            raise OperationalError("gone")
        self.batches.append(list(publications))
        self.wanted.append(wanted)

    @property
    def sent(self) -> list[Any]:
        return [one for some in self.batches for one in some]


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> Outbox:
    outbox = Outbox()
    monkeypatch.setattr(Celery, "client", outbox)
    return outbox


@pytest.fixture
def add(app: Celery) -> Any:
    @app.task(name="unit.add")
    def add(x, y=0):
        return x + y

    return add


def bodies(outbox: Outbox) -> list[Any]:
    return [json.loads(one.body)[:2] for one in outbox.sent]


def test_calls_are_sent_in_order_and_in_few_round_trips(add, outbox: Outbox) -> None:
    results = add.delay_many((n, 1) for n in range(2500))

    assert [len(some) for some in outbox.batches] == [1000, 1000, 500]
    assert bodies(outbox) == [[[n, 1], {}] for n in range(2500)]
    assert [result.id for result in results] == [one.headers["id"] for one in outbox.sent]
    assert len({result.id for result in results}) == 2500
    assert all(outbox.wanted)


def test_messages_of_many_calls_are_those_of_single_calls(add, outbox: Outbox) -> None:
    add.delay(1, 2)
    add.delay_many([(1, 2)] * 5)

    single, *many = outbox.sent

    assert add._template is not None
    for one in many:
        id_ = one.headers["id"]
        assert one.headers == {**single.headers, "id": id_, "root_id": id_}
        assert one.properties == {**single.properties, "correlation_id": id_}
        assert (one.body, one.exchange, one.routing_key) == (single.body, single.exchange, single.routing_key)


def test_a_dict_is_keyword_arguments_and_anything_else_is_refused(add, outbox: Outbox) -> None:
    add.delay_many([{"x": 1, "y": 2}, [3]])

    assert bodies(outbox) == [[[], {"x": 1, "y": 2}], [[3], {}]]
    for wrong in (5, "text", {1, 2}):
        with pytest.raises(TypeError, match="each call is a tuple"):
            add.delay_many([wrong])


def test_nothing_of_a_chunk_is_sent_when_one_call_is_wrong(add, outbox: Outbox) -> None:
    with pytest.raises(TypeError):
        add.delay_many([(1,), (1, 2, 3)])
    with pytest.raises(EncodeError):
        add.delay_many([(1,)] * 9 + [(object(),)])

    assert outbox.sent == []


def test_no_calls_are_no_round_trip(add, app: Celery, outbox: Outbox) -> None:
    assert add.delay_many([]) == app.send_many([]) == []
    assert outbox.batches == []


def test_chunks_are_bounded_in_bytes(add, outbox: Outbox, monkeypatch) -> None:
    monkeypatch.setattr(batch, "CHUNK_BYTES", 20_000)

    add.delay_many([("x" * 6000,)] * 20)

    assert len(outbox.sent) == 20
    assert all(sum(one.size for one in some) <= 20_000 for some in outbox.batches)
    assert len(outbox.batches) >= 7
    add.delay_many([("x" * 50_000,)] * 3)
    assert [len(some) for some in outbox.batches[-3:]] == [1, 1, 1]


def test_an_error_tells_what_was_sent_before(add, outbox: Outbox) -> None:
    outbox.fails = 2

    with pytest.raises(OperationalError) as raised:
        add.delay_many((n,) for n in range(2500))

    assert [result.id for result in raised.value.sent] == [one.headers["id"] for one in outbox.sent]
    assert len(raised.value.sent) == 2000


def test_signatures_of_all_kinds_are_sent_in_their_order(add, app: Celery, outbox: Outbox) -> None:
    results = app.send_many(
        [
            add.s(1),
            add.s(2, y=3),
            add.s(4).set(queue="other", priority=5),
            chain(add.s(5), add.s(6)),
            app.signature("elsewhere.task", args=(7,)),
            add.s(8),
        ]
    )

    assert bodies(outbox) == [[[1], {}], [[2], {"y": 3}], [[4], {}], [[5], {}], [[7], {}], [[8], {}]]
    assert [one.routing_key for one in outbox.sent] == ["celery", "celery", "other", "celery", "celery", "celery"]
    assert len(outbox.batches) == 1
    # The result of a chain is that of its last step.
    assert results[3].parent.id == outbox.sent[3].headers["id"]
    others = [0, 1, 2, 4, 5]
    assert [results[n].id for n in others] == [outbox.sent[n].headers["id"] for n in others]


def test_signals_see_each_message_of_a_batch(add, outbox: Outbox) -> None:
    before: list[str] = []
    after: list[str] = []

    def mark(headers, **_):
        before.append(headers["id"])
        headers["marked"] = True

    def note(headers, body, **_):
        after.append((headers["id"], body[0]))

    add.delay_many([(0,)] * 3)
    after_task_publish.connect(note)
    try:
        plain = add.delay_many((n,) for n in range(3))
        assert after == [(result.id, (n,)) for n, result in enumerate(plain)]
        before_task_publish.connect(mark)
        try:
            results = add.delay_many((n,) for n in range(5))
        finally:
            before_task_publish.disconnect(mark)
    finally:
        after_task_publish.disconnect(note)

    assert before == [result.id for result in results]
    assert all(one.headers["marked"] for one in outbox.batches[-1])
    assert len(outbox.batches) == 3


def test_a_shadow_name_of_the_task_is_asked_for_each_call(app: Celery, outbox: Outbox) -> None:
    class Named(app.Task):
        def shadow_name(self, args, kwargs, options):
            return f"call {args[0]}"

    @app.task(name="unit.named", base=Named)
    def named(n):
        return n

    named.delay_many((n,) for n in range(5))

    assert [one.headers["shadow"] for one in outbox.sent] == [f"call {n}" for n in range(5)]


def test_ignored_results_are_known_to_be(app: Celery, outbox: Outbox) -> None:
    @app.task(name="unit.quiet", ignore_result=True)
    def quiet():
        return None

    results = quiet.delay_many([()] * 5)

    assert all(result.ignored for result in results)
    assert outbox.wanted == [False]


def test_calls_sent_by_a_task_are_its_children(add, app: Celery, outbox: Outbox) -> None:
    add.delay_many([(1,)] * 3)

    @app.task(name="unit.outer", bind=True)
    def outer(self):
        results = add.delay_many([(1,)] * 4)
        assert self.request.children == results

    outer.apply(task_id="outer-id").get()

    assert {one.headers["parent_id"] for one in outbox.batches[-1]} == {"outer-id"}
    assert {one.headers["root_id"] for one in outbox.batches[-1]} == {"outer-id"}


def test_eager_calls_run_here(add, app: Celery, outbox: Outbox) -> None:
    app.conf.task_always_eager = True

    assert [result.get() for result in add.delay_many([(1, 2), {"x": 3}])] == [3, 3]
    assert [result.get() for result in app.send_many([add.s(4, 5)])] == [9]
    assert outbox.batches == []


@pytest.mark.parametrize("url", ["memory://batch", "sqlite:///batch.db"])
def test_what_was_sent_is_in_the_broker(url: str) -> None:
    with Celery("batch", broker=url, backend=url) as app:

        @app.task(name="unit.twin")
        def twin(n):
            return n

        async def later() -> int:
            many = await twin.adelay_many((n,) for n in range(1500))
            more = await app.asend_many(twin.s(n) for n in range(1500))
            return len(many) + len(more)

        assert asyncio.run(later()) == 3000
        assert app.client.queues()[0]["ready"] == 3000
