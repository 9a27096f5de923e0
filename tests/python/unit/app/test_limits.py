"""Limits of all workers: what is refused, and what a call says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import Celery
from celeriac.app import limits, send
from celeriac.exceptions import ImproperlyConfigured


@pytest.fixture
def app() -> Celery:
    return Celery("limited", broker="memory://", set_as_current=False)


def key_of(app: Celery, task: Any, *args: Any, **options: Any) -> Any:
    app.finalize()
    header = send.build(app, task.name, args, task=task, **options).headers.get("celeriac")
    return (header or {}).get("limit", {}).get("key")


def test_a_task_is_refused_where_it_is_declared(app: Celery) -> None:
    for options in (
        {"global_rate_limit": "10/d"},
        {"global_rate_limit": "many"},
        {"global_rate_limit": -1},
        {"max_concurrency": 0},
        {"max_concurrency": "3"},
        {"max_concurrency": True},
        {"limit_key": "tenant"},
        {"limit_key": 7, "max_concurrency": 1},
    ):
        with pytest.raises(ImproperlyConfigured):
            app.task(name="refused", **options)(lambda tenant: None)
    assert "refused" not in app.tasks


def test_the_engine_is_told_of_tasks_and_queues(app: Celery) -> None:
    plain = app.task(name="plain")(lambda: None)
    limited = app.task(name="limited", global_rate_limit="100/m", max_concurrency=5)(lambda: None)
    app.finalize()

    assert limits.options_of_task(plain) == {}
    assert limits.options_of_task(limited) == {"global_rate_limit": "100/m", "max_concurrency": 5}
    assert limits.options_of_queues(app) == {}
    app.conf.task_queue_limits = {"images": {"max_concurrency": 4}, "free": {}}
    assert limits.options_of_queues(app) == {"images": {"max_concurrency": 4}}
    app.conf.task_queue_limits = {"images": {"rate": 4}}
    with pytest.raises(ImproperlyConfigured, match="known are"):
        limits.options_of_queues(app)


def test_a_key_is_an_argument_a_function_or_what_the_call_says(app: Celery) -> None:
    def work(first: int, tenant: str = "none") -> None: ...

    named = app.task(name="named", max_concurrency=1, limit_key="tenant")(work)
    counted = app.task(name="counted", max_concurrency=1, limit_key=lambda first, **_: first % 3)(work)
    bound = app.task(name="bound", max_concurrency=1, limit_key="tenant", bind=True)(lambda self, tenant: None)
    plain = app.task(name="plain", max_concurrency=1)(work)

    assert key_of(app, named, 1, "acme") == "acme"
    assert key_of(app, named, 1) == "none"
    assert key_of(app, counted, 5) == "2"
    assert key_of(app, bound, "acme") == "acme"
    assert key_of(app, plain, 1) is None
    assert key_of(app, named, 1, "acme", limit_key="tenant") == "tenant"
    assert key_of(app, plain, 1, limit_key="vip") == "vip"
    assert send.build(app, "by.name", limit_key="vip").headers["celeriac"] == {"limit": {"key": "vip"}}
    assert named.limit_key == "tenant"


def test_a_key_that_cannot_be_is_refused_at_the_call(app: Celery) -> None:
    named = app.task(name="named", max_concurrency=1, limit_key="tenant")(lambda first: None)
    free = app.task(name="free")(lambda first: None)

    with pytest.raises(TypeError, match="tenant"):
        key_of(app, named, 1)
    with pytest.raises(ValueError, match="200"):
        key_of(app, named, 1, limit_key="x" * 201)
    with pytest.raises(ImproperlyConfigured, match="has none"):
        key_of(app, free, 1, limit_key="x")
    with pytest.raises(ImproperlyConfigured, match="not of a call"):
        key_of(app, free, 1, max_concurrency=3)


def test_a_retry_keeps_the_key(app: Celery) -> None:
    named = app.task(name="named", max_concurrency=1, limit_key="tenant")(lambda tenant: None)
    headers = {"celeriac": {"limit": {"key": "acme"}}}

    assert key_of(app, named, "other", headers=headers) == "acme"


def test_without_a_place_that_keeps_limits_the_call_says_so() -> None:
    app = Celery("limited", broker="amqp://nowhere.invalid", backend="rpc://", set_as_current=False)
    limited = app.task(name="limited", max_concurrency=1)(lambda: None)

    with pytest.raises(ImproperlyConfigured, match="redis://"):
        key_of(app, limited)
