"""Correlation ids: where they come from at the sender, and what log records get."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import flask
import pytest

from celeriac.app.base import Celery
from celeriac.app.log import JsonFormatter
from celeriac.middleware.correlation import Correlation, LogContext, asgi, bind, correlation_id, log_context, wsgi
from celeriac.utils import uuid


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("correlated", broker="memory://", set_as_current=False, task_default_queue=uuid())
    made.add_middleware(Correlation())
    made.task(name="act")(lambda: None)
    yield made
    made.close()


def sent(app: Celery) -> dict[str, Any]:
    """What the last message has brought."""
    consumer = app.client.consume([app.conf.task_default_queue], "test@here")
    *_, last = consumer.claim(100, 5.0)
    consumer.close()
    member: dict[str, Any] = (last.headers or {})["celeriac"]["correlation"]
    return member


def test_what_is_bound_goes_with_the_call_and_ends_with_the_block(app: Celery) -> None:
    with bind(correlation_id="a", tenant="acme", user=7):
        with bind(user=None, step="two"):
            app.tasks["act"].delay()
            assert sent(app) == {"correlation_id": "a", "tenant": "acme", "step": "two"}
        assert log_context() == {"tenant": "acme", "user": "7"}
    assert (correlation_id(), log_context()) == (None, {})


def test_a_flask_request_gives_its_id(app: Celery) -> None:
    web = flask.Flask("web")
    with web.test_request_context(headers={"X-Request-ID": "from-the-request"}):
        app.tasks["act"].delay()

    assert sent(app) == {"correlation_id": "from-the-request"}


def test_another_library_may_be_the_source(app: Celery) -> None:
    app._middleware = ()
    app.add_middleware(Correlation(source=lambda: "theirs" + 200 * "x"))

    app.tasks["act"].delay()

    assert sent(app)["correlation_id"] == ("theirs" + 200 * "x")[:128]


def test_a_call_without_any_gets_a_new_one_each_time(app: Celery) -> None:
    ids = set()
    for _ in range(3):
        app.tasks["act"].delay()
        ids.add(sent(app)["correlation_id"])

    assert len(ids) == 3


def test_wsgi_and_asgi_bind_the_id_of_the_request() -> None:
    seen: list[str | None] = []

    def plain(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(correlation_id())
        return []

    async def later(scope: Any, receive: Any, send: Any) -> None:
        seen.append(correlation_id())

    wsgi(plain)({"HTTP_X_REQUEST_ID": "one"}, None)
    wsgi(plain, "X-Trace")({"HTTP_X_TRACE": "two"}, None)
    wsgi(plain)({}, None)
    asyncio.run(asgi(later)({"type": "http", "headers": [(b"x-request-id", b"three")]}, None, None))
    asyncio.run(asgi(later)({"type": "lifespan"}, None, None))

    assert seen[:2] == ["one", "two"]
    assert len(seen[2] or "") == 36
    assert seen[3:] == ["three", None]
    assert correlation_id() is None


@pytest.mark.parametrize("fields", [{"correlation_id": 129 * "x"}, {"tenant": 2048 * "x"}])
def test_what_would_make_every_message_large_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="characters at most"), bind(**fields):
        pass


def test_log_records_get_it() -> None:
    record = logging.LogRecord("name", logging.INFO, "", 0, "text", (), None)
    outside = logging.LogRecord("name", logging.INFO, "", 0, "text", (), None)
    with bind(correlation_id="a", tenant="acme", message="not mine"):
        assert LogContext().filter(record)
        entry = json.loads(JsonFormatter().format(record))
    LogContext().filter(outside)

    assert logging.Formatter("%(correlation_id)s %(log_context)s %(tenant)s").format(record) == (
        "a tenant=acme message=not mine acme"
    )
    assert (entry["correlation_id"], entry["tenant"], entry["message"]) == ("a", "acme", "text")
    assert logging.Formatter("%(correlation_id)s|%(log_context)s|").format(outside) == "-||"
