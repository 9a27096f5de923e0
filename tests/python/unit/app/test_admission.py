"""Options of keys become what the store is asked, and its answers become results."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celeriac import Celery, chain, group
from celeriac.app.admission import entry_options
from celeriac.exceptions import DuplicateTask, ImproperlyConfigured, LockNotAcquired
from celeriac.middleware import Middleware
from celeriac.utils import uuid


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery(f"keys-{uuid()}", broker=f"memory://{uuid()}", backend="cache+memory://", set_as_current=False)
    app.conf.result_backend = None
    yield app
    app.close()


def task_of(app: Celery, **options: Any) -> Any:
    return app.task(name="t", **options)(lambda *args, **kwargs: None)


def waiting(app: Celery) -> int:
    return sum(queue["ready"] + queue["parked"] for queue in app.client.queues())


def test_the_second_call_of_a_key_gets_the_first_ones_id(app: Celery) -> None:
    charge = task_of(app, idempotency_key=lambda order, cents=0: f"order-{order}")

    first, second, other = charge.delay(1), charge.delay(1, cents=5), charge.delay(2)

    assert (first.id, first.deduplicated) == (second.id, False)
    assert second.deduplicated
    assert other.id != first.id
    assert waiting(app) == 2
    named = [app.send_task("t", (9,), idempotency_key="order-1").id, app.send_task("u", idempotency_key="order-1").id]
    assert [task_id == first.id for task_id in named] == [True, False], "keys belong to a task"


def test_every_way_to_send_asks_for_the_key(app: Celery) -> None:
    unique = task_of(app, unique="finished")

    async def later() -> list[Any]:
        return [await unique.adelay(1), *await unique.adelay_many([(1,), (2,)]), await unique.s(1).aapply_async()]

    results = [unique.delay(1), *unique.delay_many([(1,), (1,), (2,)]), unique.s(1).delay(), *asyncio.run(later())]
    results += app.send_many([unique.s(1), unique.s(2).set(priority=3)])

    first, second = results[0], results[3]
    ids = [result.id for result in results]
    assert (ids.count(first.id), ids.count(second.id), len(ids)) == (8, 3, 11)
    assert [result.deduplicated for result in results] == [False, True, True, False, *[True] * 7]
    assert waiting(app) == 2


def test_arguments_are_the_key_unless_one_is_named(app: Celery) -> None:
    unique = task_of(app, unique="queued")

    assert unique.delay(1, a=2, b=3).id == unique.delay(1, b=3, a=2).id
    assert unique.delay(1, 2).id != unique.delay(2, 1).id
    by_text = [unique.apply_async((number,), unique_key="k") for number in range(2)]
    assert by_text[0].id == by_text[1].id
    assert unique.apply_async((1, 2), unique=False).id != unique.apply_async((1, 2), unique=False).id


def test_a_duplicate_can_be_an_error(app: Celery) -> None:
    unique = task_of(app, unique="finished", on_duplicate="raise")
    first = unique.delay()

    with pytest.raises(DuplicateTask, match=first.id) as caught:
        unique.delay()

    assert (caught.value.task, caught.value.task_id) == ("t", first.id)
    assert unique.apply_async(on_duplicate="return").id == first.id


def test_the_header_tells_the_worker_what_to_free(app: Celery) -> None:
    from celeriac.app import send

    def member(**options: Any) -> dict[str, Any]:
        found = send.build(app, "t", **options).headers["celeriac"]["unique"]
        assert len(found.pop("token")) == 18
        assert json.dumps(found)
        return found

    hour, day = 3_600_000, 86_400_000
    unique = {"key": "t:unique:k", "ttl_ms": hour, "until": "started"}
    assert member(unique="started", unique_key="k") == unique
    assert member(unique="started", unique_key="k", unique_turn=True) == {**unique, "turn": "t:turn:k"}
    assert member(idempotency_key="k") == {"key": "t:key:k", "ttl_ms": day}
    assert member(idempotency_key="k", idempotency_ttl=2) == {"key": "t:key:k", "ttl_ms": 2000}
    assert member(throttle=1.5, unique_key="k") == {"key": "t:throttle:k", "ttl_ms": 1500}
    assert member(debounce=10, unique_key="k") == {"key": "t:debounce:k", "ttl_ms": day + 10_000, "debounced": True}
    assert len(member(idempotency_key="k" * 1000)["key"]) < 100


def test_debounced_calls_share_an_id_and_put_each_other_off(app: Celery) -> None:
    index = task_of(app, debounce=60, debounce_max_wait=90, unique_key="k")
    first = index.delay("a")
    from celeriac.app import send

    message = send.compose(app, "t", ("b",), {}, index, {})
    made = message.id
    send.publish(app, message, {})
    sent = message.publication

    assert message.id == first.id != made
    assert message.deduplicated
    headers = sent.headers
    assert (headers["id"], headers["root_id"]) == (first.id, first.id)
    assert sent.properties["correlation_id"] == first.id
    eta = datetime.fromisoformat(headers["eta"])
    assert timedelta(seconds=50) < eta - datetime.now(UTC) <= timedelta(seconds=60)
    assert abs(sent.due_ms - eta.timestamp() * 1000) < 2
    assert waiting(app) == 2, "the earlier one is dropped when it comes"


def test_a_debounced_call_is_not_put_off_for_ever(app: Celery) -> None:
    index = task_of(app, debounce=0.2, debounce_max_wait=0.2, unique_key="k")
    from celeriac.app import send

    index.delay()
    time.sleep(0.05)
    message = send.compose(app, "t", (), {}, index, {})
    asked = time.time() * 1000
    send.publish(app, message, {})

    assert message.publication.due_ms is not None
    assert message.publication.due_ms < asked + 190


def test_middleware_is_told_that_a_call_was_not_sent(app: Celery) -> None:
    told: list[Any] = []

    class Seen(Middleware):
        def after_publish(self, call: Any, exception: BaseException | None) -> None:
            told.append(exception)

    app.add_middleware(Seen())
    unique = task_of(app, unique="finished")
    first = unique.delay()
    unique.delay()
    asyncio.run(unique.aapply_async())
    with pytest.raises(DuplicateTask):
        unique.apply_async(on_duplicate="raise")

    assert told[0] is None
    assert [(type(one), one.task_id) for one in told[1:]] == [(DuplicateTask, first.id)] * 3


def test_eager_tasks_run_every_time(app: Celery) -> None:
    app.conf.task_always_eager = True
    unique = app.task(name="e", unique="finished")(lambda x: x)

    assert [unique.delay(1).get(), unique.apply_async((2,), idempotency_key="k").get()] == [1, 2]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"unique": "always"}, "'queued', 'started', 'finished'"),
        ({"unique": "queued", "throttle": 5}, "cannot be combined"),
        ({"unique_key": "k"}, "unique_key says more about"),
        ({"on_duplicate": "raise"}, "on_duplicate says more about"),
        ({"unique": "queued", "on_duplicate": "drop"}, "'return' or 'raise'"),
        ({"unique": "queued", "unique_ttl": 0}, "unique_ttl is a number of seconds above 0"),
        ({"debounce": 5, "countdown": 3}, "leave out countdown"),
        ({"debounce": 5, "task_id": "x"}, "leave out task_id"),
        ({"debounce": 5, "debounce_max_wait": 1}, "at least as long"),
        ({"throttle": -1}, "throttle is a number of seconds above 0"),
    ],
)
def test_wrong_options_are_refused_at_the_call(app: Celery, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        task_of(app).apply_async(**options)
    assert waiting(app) == 0


def test_a_key_that_is_no_text_is_refused(app: Celery) -> None:
    task = task_of(app)
    for key in (lambda: None, "", 7):
        with pytest.raises(TypeError, match="idempotency_key is a text"):
            task.apply_async(idempotency_key=key)


def test_a_member_of_a_workflow_is_refused(app: Celery) -> None:
    unique, plain = task_of(app, unique="finished"), app.task(name="plain")(lambda *args: None)

    for workflow in (chain(unique.si(), plain.si()), group(unique.si(), plain.si())):
        with pytest.raises(ValueError, match=r"task t is called with .*unique=False"):
            workflow.apply_async()
    assert waiting(app) == 0
    assert chain(plain.si(), unique.si()).apply_async().parent is not None
    assert len(group(unique.si().set(unique=False), plain.si()).apply_async().results) == 2


def test_a_broker_without_keys_and_results_says_what_to_do() -> None:
    app = Celery("no-keys", broker="amqp://nobody@127.0.0.1:1//", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="result_backend"):
        app.lock("name").acquire()
    app.close()


def test_a_lock_is_held_by_one(app: Celery) -> None:
    lock, other = app.lock("stock", ttl=30), app.lock("stock", wait=0.05)

    with lock as held:
        assert held is lock
        assert lock.held
        assert lock.fence is not None
        fence = lock.fence
        with pytest.raises(LockNotAcquired, match="stock"):
            other.acquire()
        with pytest.raises(RuntimeError, match="not reentrant"):
            lock.acquire()
        lock.extend()
        with app.lock("another"):
            pass
    assert not lock.held
    assert lock.fence is None

    async def again() -> int:
        async with app.lock("stock", ttl=0.02) as lock:
            assert lock.fence is not None
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                await asyncio.sleep(0.01)
                with app.lock("stock", wait=0.5):
                    break
            with pytest.raises(LockNotAcquired, match="ran out"):
                await lock.aextend()
            assert await lock.arelease() is False
            return lock.fence or fence + 1

    assert asyncio.run(again()) > fence


def test_entries_say_overlap_and_jitter_in_options_of_calls() -> None:
    skip = entry_options({"overlap": "skip", "queue": "q"}, "import")
    assert skip == {
        "queue": "q",
        "unique": "finished",
        "unique_key": "beat:import",
        "on_duplicate": "raise",
        "unique_turn": None,
    }
    queued = entry_options({"overlap": "queue"}, "import")
    assert (queued["unique"], queued["unique_turn"]) == ("started", True)

    moments = [1_700_000_000_000 + 1000 * number for number in range(200)]
    late = [entry_options({"jitter": 10}, "import", ms)["eta"].timestamp() * 1000 - ms for ms in moments]
    assert late == [entry_options({"jitter": 10}, "import", ms)["eta"].timestamp() * 1000 - ms for ms in moments]
    assert all(0 <= wait < 10_000 for wait in late)
    assert max(late) > 8000
    assert min(late) < 2000
    assert entry_options({"jitter": 10}, "import") == {}, "sent by hand: now"
    for wrong in ({"overlap": "maybe"}, {"jitter": -1}):
        with pytest.raises(ValueError, match="of 'import' is"):
            entry_options(wrong, "import", 0)
