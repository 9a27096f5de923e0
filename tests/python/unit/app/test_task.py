"""Tasks: declaring, calling, options, states of their own."""

from __future__ import annotations

import asyncio
import functools
import json
import pickle
from typing import Any

import pytest

from celeriac import Celery, _state, shared_task
from celeriac import task as free_task
from celeriac._core import ResultRecord
from celeriac.app.arguments import header_of, takes_more_than
from celeriac.app.autoretry import get_exponential_backoff_interval
from celeriac.app.context import Context
from celeriac.exceptions import DuplicateTaskNameWarning, MaxRetriesExceededError, Reject, Retry
from celeriac.result.record import build_record


@pytest.fixture
def app(tmp_path) -> Any:
    url = f"memory://{tmp_path.name}"
    with Celery("unit", broker=url, backend=url) as app:
        yield app


def claim(app: Celery) -> int:
    return sum(queue["ready"] for queue in app.client.queues())


def test_delay_publishes_and_gives_the_result(app: Celery) -> None:
    @app.task
    def add(x, y):
        return x + y

    result = add.delay(1, y=2)

    assert result.task_name == f"{__name__}.add"
    assert claim(app) == 1
    app.client.store([build_record(app, result.id, "SUCCESS", 3)])
    assert result.get(timeout=30) == 3


def test_adelay_publishes_without_blocking_the_loop(app: Celery) -> None:
    @app.task
    async def add(x, y):
        return x + y

    async def main() -> Any:
        results = await asyncio.gather(*(add.adelay(n, 1) for n in range(10)), (add.s(1) | add.s(1)).aapply_async((2,)))
        app.client.store([build_record(app, result.id, "SUCCESS", n) for n, result in enumerate(results)])
        return [await result for result in results]

    assert asyncio.run(main()) == list(range(11))
    assert claim(app) == 11


@pytest.mark.parametrize(
    ("args", "kwargs"), [((1,), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1, 2), {"y": 1}), ((), {})]
)
def test_arguments_that_do_not_fit_are_refused_before_sending(app: Celery, args: Any, kwargs: Any) -> None:
    @app.task
    def add(x, y):
        return x + y

    with pytest.raises(TypeError, match=r"add\(\)"):
        add.delay(*args, **kwargs)

    assert claim(app) == 0


def test_typing_off_sends_whatever_is_given(app: Celery) -> None:
    @app.task(typing=False)
    def add(x, y):
        return x + y

    add.delay(1)

    assert claim(app) == 1


def test_a_bound_task_takes_its_arguments_without_itself(app: Celery) -> None:
    @app.task(bind=True)
    def show(self, x, *, y=1):
        return self.name, x, y

    show.delay(1, y=2)
    assert show(1) == (show.name, 1, 1)
    with pytest.raises(TypeError):
        show.delay()


def test_headers_copy_any_signature() -> None:
    def everything(a, b, /, c, d=1, *args, e, f=2, **kw):
        pass

    def only_keyword(*, a):
        pass

    for function, good, bad in (
        (everything, ((1, 2, 3), {"e": 1, "x": 2}), ((1, 2), {"c": 1})),
        (only_keyword, ((), {"a": 1}), ((1,), {})),
    ):
        header = header_of(function)
        assert header is not None
        header(*good[0], **good[1])
        with pytest.raises(TypeError):
            header(*bad[0], **bad[1])
    assert header_of(functools.partial(everything)) is None
    assert takes_more_than(header_of(lambda a, b: None), 1)
    assert not takes_more_than(header_of(lambda a: None), 1)
    assert takes_more_than(header_of(lambda *a: None), 1)


def test_options_come_from_the_settings_unless_the_task_has_its_own(app: Celery) -> None:
    app.conf.update(task_acks_late=True, task_default_rate_limit="5/m", task_annotations={"mine": {"time_limit": 9}})

    @app.task(name="mine", acks_late=False)
    def mine():
        pass

    app.finalize()

    assert (mine.acks_late, mine.rate_limit, mine.time_limit, mine.serializer) == (False, "5/m", 9, "json")


def test_a_second_function_of_the_same_name_is_ignored_with_a_warning(app: Celery) -> None:
    @app.task(name="taken")
    def first():
        return 1

    with pytest.warns(DuplicateTaskNameWarning):

        @app.task(name="taken")
        def second():
            return 2

    assert app.tasks["taken"]() == 1


def test_a_class_based_task_is_registered_and_called(app: Celery) -> None:
    class Add(app.Task):
        name = "add"

        def run(self, x, y):
            return x + y

    add = app.register_task(Add)

    assert add.apply((1, 2)).get() == 3
    with pytest.raises(TypeError):
        add.delay(1)
    assert app.tasks["add"] is add
    assert pickle.loads(pickle.dumps(add)) is add


def test_a_shared_task_is_another_one_in_each_app() -> None:
    @shared_task(name="shared", bind=True)
    def which(self):
        return self.app.main

    first, second = Celery("first"), Celery("second")

    assert first.tasks["shared"]() == "first"
    assert second.tasks["shared"]() == "second"
    assert which() == "second"
    first.set_current()
    assert which() == "first"
    assert which.name == "shared"


def test_a_task_with_no_app_works_on_the_embedded_broker() -> None:
    @free_task
    def add(x, y):
        return x + y

    assert add(1, 2) == 3
    assert add.app is _state.get_default_app()
    assert add.app.uses_embedded_broker
    assert add.app.broker_url_effective == "sqlite:///celeriac.db"
    assert add.app.results_enabled


def test_a_named_broker_without_a_backend_has_no_results() -> None:
    app = Celery("x", broker="memory://")

    assert not app.results_enabled
    assert app.result_backend_effective is None
    assert Celery("y", broker="memory://", backend="disabled://").results_enabled is False


def test_update_state_stores_and_the_hook_of_a_child_takes_it_instead(app: Celery) -> None:
    @app.task(bind=True)
    def work(self):
        self.update_state(state="PROGRESS", meta={"n": 1})

    work.apply(task_id="here")
    assert app.AsyncResult("here").info == {"n": 1}
    assert app.AsyncResult("here").state == "PROGRESS"

    told: list[tuple[int, ResultRecord]] = []
    app._child_update = lambda tag, record: told.append((tag, record))
    work.push_request(id="child", _tag=7)
    work.update_state(state="PROGRESS", meta=2)
    work.update_state(task_id="other", state="ELSEWHERE")
    work.pop_request()

    ((tag, record),) = told
    assert (tag, record.task_id, record.state) == (7, "child", "PROGRESS")
    document = json.loads(record.record)
    assert list(document) == ["status", "result", "traceback", "children", "date_done", "task_id"]
    assert app.AsyncResult("other").state == "ELSEWHERE"


def in_worker(task: Any, **request: Any) -> Any:
    request = {"id": "t1", "args": (), "kwargs": {}, "called_directly": False, **request}
    request.setdefault("delivery_info", {"exchange": "", "routing_key": "celery"})
    task.push_request(**request)
    _state.push_current_task(task)
    try:
        return task.run()
    finally:
        _state.pop_current_task()
        task.pop_request()


def test_a_retry_in_a_child_is_built_and_left_to_the_request(app: Celery) -> None:
    @app.task(bind=True)
    def flaky(self):
        raise self.retry(countdown=5)

    follow_ups: list[Any] = []
    with pytest.raises(Retry) as caught:
        in_worker(flaky, _follow_ups=follow_ups, retries=1)

    assert claim(app) == 0
    (publication,) = follow_ups
    assert publication.headers["retries"] == 2
    assert publication.headers["parent_id"] == "t1"
    assert publication.due_ms is not None
    assert caught.value.when == 5


def test_retries_end_with_the_exception_at_hand_or_max_retries_exceeded(app: Celery) -> None:
    @app.task(bind=True, max_retries=2)
    def flaky(self, kind="bare"):
        if kind == "bare":
            raise self.retry()
        try:
            raise KeyError("handled")
        except KeyError:
            raise self.retry() from None

    with pytest.raises(MaxRetriesExceededError, match=r"Can't retry .*flaky\[t1\] args:\(\) kwargs:\{\}"):
        in_worker(flaky, retries=2)
    flaky.run = functools.partial(flaky.run, "handled")
    with pytest.raises(KeyError, match="handled"):
        in_worker(flaky, retries=2)


def test_a_retry_that_cannot_be_sent_rejects_the_message(app: Celery, monkeypatch) -> None:
    @app.task(bind=True)
    def flaky(self):
        raise self.retry()

    monkeypatch.setattr("celeriac.app.send.publish", lambda *_: (_ for _ in ()).throw(OSError("gone")))

    with pytest.raises(Reject):
        in_worker(flaky)


def test_backoff_is_celerys(golden) -> None:
    rows = golden("offline/formulas")["backoff"]

    assert rows
    for row in rows:
        seconds = get_exponential_backoff_interval(row["factor"], row["retries"], row["maximum"])
        assert seconds == row["seconds"]
    draws = {get_exponential_backoff_interval(3, 0, 600, full_jitter=True) for _ in range(500)}
    assert draws == {0, 1, 2, 3}
    assert get_exponential_backoff_interval(1, 10_000, 600) == 600


def test_a_request_shows_custom_headers_both_ways() -> None:
    request = Context({"id": "a", "tenant": "acme", "timelimit": [3, 2]}, retries=1)

    assert request.tenant == "acme"
    assert request.headers == {"tenant": "acme"}
    assert (request.time_limit, request.soft_time_limit, request.retries) == (3, 2, 1)
    assert request.get("nothing", 5) == 5


def test_children_of_a_request_are_recorded(app: Celery) -> None:
    @app.task
    def leaf():
        pass

    @app.task(bind=True)
    def parent(self):
        sent = [leaf.delay(), leaf.apply_async(add_to_parent=False)]
        return self.request.children, sent

    children, sent = in_worker(parent)
    assert children == sent[:1]


def test_requests_of_threads_and_coroutines_do_not_mix(app: Celery) -> None:
    @app.task(bind=True)
    async def who(self, name):
        await asyncio.sleep(0)
        return self.request.id

    async def run(name: str) -> Any:
        who.push_request(id=name, called_directly=False)
        try:
            return await who.run(name)
        finally:
            who.pop_request()

    async def main() -> Any:
        return await asyncio.gather(*(asyncio.create_task(run(str(n))) for n in range(20)))

    assert asyncio.run(main()) == [str(n) for n in range(20)]


def test_a_direct_call_of_an_async_task_has_its_request_while_it_runs(app: Celery) -> None:
    @app.task(bind=True)
    async def who(self, x):
        await asyncio.sleep(0)
        return self.request.args, self.request.called_directly, _state.get_current_task() is self

    async def main() -> Any:
        return await asyncio.gather(who(1), who(2))

    assert asyncio.run(main()) == [((1,), True, True), ((2,), True, True)]
    assert who.request.args is None


def test_flasks_documented_pattern_works(app: Celery) -> None:
    entered: list[str] = []

    class FlaskTask(app.Task):
        def __call__(self, *args, **kwargs):
            entered.append(self.name)
            return self.run(*args, **kwargs)

    celery_app = Celery("flask_app", task_cls=FlaskTask)
    celery_app.config_from_object({"broker_url": "memory://flask", "task_ignore_result": True})
    celery_app.set_default()

    @shared_task(ignore_result=False, name="shared.add")
    def add(a, b):
        return a + b

    assert add.apply((1, 2)).get() == 3
    assert entered == ["shared.add"]
    assert add.ignore_result is False


def test_replacing_the_base_class_reaches_tasks_declared_before(app: Celery) -> None:
    entered: list[str] = []

    @app.task(name="before")
    def before():
        return 1

    class ContextTask(app.Task):
        def __call__(self, *args, **kwargs):
            entered.append(self.name)
            return self.run(*args, **kwargs)

    app.Task = ContextTask

    @app.task(name="after")
    def after():
        return 2

    assert (before.apply().get(), after.apply().get()) == (1, 2)
    assert entered == ["before", "after"]
    assert isinstance(before, app.Task)


def test_periodic_tasks_are_kept_for_the_scheduler(app: Celery) -> None:
    @app.task(name="tick")
    def tick(n):
        pass

    assert app.add_periodic_task(10.0, tick.s(1), name="every ten") == "every ten"
    app.add_periodic_task(20.0, tick.s(), args=(2,), queue="slow")

    assert app.conf.beat_schedule["every ten"]["args"] == (1,)
    assert app.conf.beat_schedule["tick(2)"]["options"] == {"queue": "slow"}


def test_the_repr_names_task_and_app(app: Celery) -> None:
    @app.task(name="add")
    def add(x, y):
        return x + y

    assert repr(add) == f"<@task: add of {app.main or '__main__'} at {id(app):#x}>"
