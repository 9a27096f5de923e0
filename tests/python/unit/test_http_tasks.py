"""`http_task`: what goes into the message, and what is refused where it is called."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import Celery, http_task
from celeriac.app import send


@pytest.fixture
def app() -> Celery:
    return Celery("calls", broker="memory://", set_as_current=False)


def test_a_call_says_what_was_said_and_shows_no_secret(app: Celery) -> None:
    call = app.http_task.s("https://example.com/sesame?token=sesame", {"n": 1}, {"X-Key": "sesame"}, 5, 2, method="put")
    options = {**call.options}
    message = send.compose(app, call.task, call.args, call.kwargs, app.tasks[call.task], options)

    assert message.kwargs == {
        "url": "https://example.com/sesame?token=sesame",
        "method": "PUT",
        "payload": {"n": 1},
        "headers": {"X-Key": "sesame"},
        "timeout": 5.0,
        "retries": 2,
    }
    assert message.publication.routing_key == "celeriac.http"
    assert "sesame" not in str(message.headers)
    assert message.headers["kwargsrepr"] == "{'url': 'https://example.com/...', 'method': 'PUT'}"


def test_bytes_are_sent_as_they_are(app: Celery) -> None:
    assert app.http_task.s("https://example.com/", b"\xff").kwargs["content"] == "/w=="
    assert "payload" not in app.http_task.s("https://example.com/").kwargs


@pytest.mark.parametrize(
    ("arguments", "options", "error", "why"),
    [
        (("example.com",), {}, ValueError, "http://"),
        (("file:///etc/passwd",), {}, ValueError, "http://"),
        ((7,), {}, TypeError, "text"),
        (("https://me:sesame@example.com/",), {}, ValueError, "user name"),
        (("https://example.com/", None, {"Host": "a"}), {}, ValueError, "Host"),
        (("https://example.com/", None, {"a b": "a"}), {}, ValueError, "name of a header"),
        (("https://example.com/", None, {"a": "sesame\r\nb: c"}), {}, ValueError, "characters"),
        (("https://example.com/", None, {"a": 1}), {}, TypeError, "text"),
        (("https://example.com/",), {"timeout": 0}, ValueError, "seconds"),
        (("https://example.com/",), {"retries": -1}, ValueError, "from 0"),
        (("https://example.com/",), {"method": "GET /"}, ValueError, "method"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_the_call(
    app: Celery, arguments: Any, options: Any, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why) as raised:
        app.http_task(*arguments, **options)
    assert "sesame" not in str(raised.value)


def test_it_cannot_run_in_a_child() -> None:
    app = Celery("calls", broker="memory://", set_as_current=False)
    with pytest.raises(NotImplementedError, match="engine"):
        app.tasks["celeriac.http"]()


def test_the_global_one_uses_the_current_app() -> None:
    app = Celery("current", broker="memory://")
    assert http_task.app is app
