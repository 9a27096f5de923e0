"""Middleware at the sender and in eager mode: order, what may be changed, what happens to errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import chain, group
from celeriac.app.base import Celery
from celeriac.exceptions import Ignore, OperationalError
from celeriac.middleware import Call, Middleware, Run
from celeriac.utils import uuid


class Recorder(Middleware):
    """Writes down what it is told."""

    def __init__(self, name: str, seen: list[Any], **raises: Exception) -> None:
        self.name, self.seen, self.raises = name, seen, raises

    def _saw(self, hook: str, *more: Any) -> None:
        self.seen.append((self.name, hook, *more))
        if hook in self.raises:
            raise self.raises[hook]

    def before_publish(self, call: Call) -> None:
        self._saw("before_publish")

    def after_publish(self, call: Call, exception: BaseException | None) -> None:
        self._saw("after_publish", type(exception).__name__, call.routing_key)

    def before_task(self, run: Run) -> None:
        self._saw("before_task")

    def after_task(self, run: Run) -> None:
        self._saw("after_task", run.state, run.result)

    def on_retry(self, run: Run, exception: BaseException) -> None:
        self._saw("on_retry", str(exception))

    def on_failure(self, run: Run, exception: BaseException) -> None:
        self._saw("on_failure", str(exception))


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("hooked", broker="memory://", set_as_current=False, task_default_queue=uuid())
    yield made
    made.close()


def waiting(app: Celery) -> int:
    return sum(one["ready"] for one in app.client.queues() if one["name"] == app.conf.task_default_queue)


def test_hooks_are_called_in_order_before_and_in_reverse_after(app: Celery) -> None:
    seen: list[Any] = []
    app.add_middleware(Recorder("a", seen), Recorder("b", seen))

    @app.task(middleware=[Recorder("c", seen)])
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(2, 3)
    sent = [(name, hook) for name, hook, *_ in seen]
    seen.clear()
    assert add.apply((2, 3)).result == 5

    assert sent == [(name, "before_publish") for name in "abc"] + [(name, "after_publish") for name in "cba"]
    assert [entry[:2] for entry in seen] == [(n, "before_task") for n in "abc"] + [(n, "after_task") for n in "cba"]
    assert seen[-1] == ("a", "after_task", "SUCCESS", 5)


def test_middleware_that_is_added_late_sees_calls_that_were_served_by_a_template(app: Celery) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    for _ in range(3):
        add.delay(2, 3)
    assert add._template is not None
    assert add._template.serves(app, add.name)
    seen: list[Any] = []
    app.add_middleware(Recorder("a", seen))

    add.delay(2, 3)
    add.delay_many([(1, 2), (3, 4)])

    assert [entry[1] for entry in seen].count("before_publish") == 3
    assert [entry[1] for entry in seen].count("after_publish") == 3


def test_middleware_around_runs_alone_leaves_the_quick_way_of_sending(app: Celery) -> None:
    class Running(Middleware):
        def after_task(self, run: Run) -> None:
            pass

    app.add_middleware(Running)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    for _ in range(3):
        add.delay(2, 3)

    assert add._template is not None
    assert add._template.serves(app, add.name)


def test_before_publish_may_change_arguments_options_and_headers(app: Celery) -> None:
    class Tenant(Middleware):
        def before_publish(self, call: Call) -> None:
            call.args = (call.args[0], 5)
            call.kwargs = {**call.kwargs, "z": 6}
            call.options["queue"] = "other"
            call.headers["tenant"] = "acme"
            call.members["mine"] = {"a": 1}

    app.add_middleware(Tenant)

    @app.task
    def show(x: int, y: int, z: int = 0) -> None: ...

    options = {"headers": {"kept": 1}}
    show.apply_async((2, 3), **options)

    (publication,) = list(taken(app, "other"))
    assert publication["headers"]["tenant"] == "acme"
    assert publication["headers"]["kept"] == 1
    assert publication["headers"]["celeriac"] == {"mine": {"a": 1}}
    assert publication["headers"]["argsrepr"] == "(2, 5)"
    assert publication["headers"]["kwargsrepr"] == "{'z': 6}"
    assert options == {"headers": {"kept": 1}}, "what the caller has given stays his"


def taken(app: Celery, queue: str) -> Iterator[dict[str, Any]]:
    consumer = app.client.consume([queue], "test@here")
    for delivery in consumer.claim(100, 5.0):
        yield {"headers": delivery.headers}
    consumer.close()


def test_a_hook_that_raises_before_publishing_refuses_the_call(app: Celery) -> None:
    seen: list[Any] = []
    app.add_middleware(Recorder("a", seen), Recorder("b", seen, before_publish=ValueError("not now")))

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with pytest.raises(ValueError, match="not now"):
        add.delay(2, 3)

    assert waiting(app) == 0
    assert seen == [("a", "before_publish"), ("b", "before_publish"), ("a", "after_publish", "ValueError", None)]


def test_a_hook_that_raises_elsewhere_is_logged(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    app.add_middleware(
        Recorder("a", seen), Recorder("b", seen, after_publish=ValueError("late"), after_task=KeyError("later"))
    )

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with caplog.at_level(logging.ERROR):
        add.delay(2, 3)
        result = add.apply((2, 3))

    assert result.result == 5
    assert waiting(app) == 1
    assert [entry[:2] for entry in seen if "after" in entry[1]] == [
        ("b", "after_publish"), ("a", "after_publish"), ("b", "after_task"), ("a", "after_task"),
    ]  # fmt: skip
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "after_publish of middleware Recorder" in caplog.text


def test_a_call_that_the_broker_does_not_take_is_told(tmp_path: Any) -> None:
    seen: list[Any] = []
    app = Celery("hooked", broker="redis://127.0.0.1:1/0", set_as_current=False, task_publish_retry=False)
    app.add_middleware(Recorder("a", seen))

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with pytest.raises(OperationalError):
        add.delay(2, 3)
    with pytest.raises(OperationalError):
        add.delay_many([(2, 3)])

    assert seen == [("a", "before_publish"), ("a", "after_publish", "OperationalError", "celery")] * 2
    app.close()


def test_every_message_of_a_workflow_passes(app: Celery) -> None:
    seen: list[Any] = []
    app.add_middleware(Recorder("a", seen))

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    group(add.s(1, 1), add.s(2, 2)).apply_async()
    chain(add.s(1, 1), add.s(2)).apply_async()
    app.send_task("unknown.here", (1,))

    hooks = [entry[1] for entry in seen]
    assert (hooks.count("before_publish"), hooks.count("after_publish")) == (4, 4)


def test_hooks_may_be_coroutines(app: Celery) -> None:
    seen: list[str] = []

    class Later(Middleware):
        async def before_publish(self, call: Call) -> None:
            await asyncio.sleep(0)
            call.headers["seen"] = "yes"
            seen.append("before_publish")

        async def after_publish(self, call: Call, exception: BaseException | None) -> None:
            await asyncio.sleep(0)
            seen.append("after_publish")

        async def before_task(self, run: Run) -> None:
            await asyncio.sleep(0)
            seen.append("before_task")

        async def after_task(self, run: Run) -> None:
            await asyncio.sleep(0)
            seen.append(run.state)

    app.add_middleware(Later)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(2, 3)
    add.apply((2, 3))
    assert seen == ["before_publish", "after_publish", "before_task", "SUCCESS"]
    seen.clear()

    async def program() -> None:
        await add.adelay(2, 3)
        add.delay(2, 3)

    asyncio.run(program())
    assert seen == ["before_publish", "after_publish"] * 2
    assert [one["headers"]["seen"] for one in taken(app, app.conf.task_default_queue)] == ["yes"] * 3


def test_eager_tasks_tell_of_retries_failures_and_what_they_ignore(app: Celery) -> None:
    seen: list[Any] = []
    app.add_middleware(Recorder("a", seen))

    @app.task(bind=True, max_retries=1)
    def act(self: Any, what: str) -> str:
        if what == "retry" and not self.request.retries:
            raise self.retry(exc=ValueError("again"), countdown=0)
        if what == "fail":
            raise KeyError("bad")
        if what == "ignore":
            raise Ignore
        return "done"

    for what in ("retry", "fail", "ignore"):
        act.apply((what,))

    assert [entry[1:] for entry in seen] == [
        ("before_task",), ("on_retry", "again"), ("after_task", "RETRY", None),
        ("before_task",), ("after_task", "SUCCESS", "done"),
        ("before_task",), ("on_failure", "'bad'"), ("after_task", "FAILURE", None),
        ("before_task",), ("after_task", "IGNORED", None),
    ]  # fmt: skip


def test_a_hook_that_raises_before_a_task_fails_it(app: Celery) -> None:
    seen: list[Any] = []
    app.add_middleware(Recorder("a", seen), Recorder("b", seen, before_task=ValueError("no")), Recorder("c", seen))
    ran: list[int] = []

    @app.task
    def act() -> None:
        ran.append(1)

    result = act.apply()

    assert (result.state, repr(result.result), ran) == ("FAILURE", "ValueError('no')", [])
    assert seen == [
        ("a", "before_task"), ("b", "before_task"), ("a", "on_failure", "no"), ("a", "after_task", "FAILURE", None),
    ]  # fmt: skip


def test_the_setting_names_middleware_that_is_made_once(app: Celery) -> None:
    app.conf.task_middleware = [f"{__name__}:Counting"]
    assert Counting.made == 0

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(1, 2)
    app.conf.task_ignore_result = True
    add.delay(1, 2)
    assert (Counting.made, Counting.calls) == (1, 2)


class Counting(Middleware):
    made = calls = 0

    def __init__(self) -> None:
        type(self).made += 1

    def before_publish(self, call: Call) -> None:
        type(self).calls += 1


@pytest.mark.parametrize("wrong", [3, "celeriac.app.base:Celery", object])
def test_what_is_no_middleware_is_refused_where_it_is_named(app: Celery, wrong: Any) -> None:
    with pytest.raises(TypeError, match="is no middleware"):
        app.add_middleware(wrong)
    with pytest.raises(TypeError, match="is no middleware"):
        app.task(middleware=[wrong])(lambda: None)
