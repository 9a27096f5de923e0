"""`celeriac.webhooks`: what a receiver does with a webhook; and what may be said of one."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import Celery
from celeriac.app.options import worker_options
from celeriac.app.webhooks import as_options, secrets
from celeriac.exceptions import ImproperlyConfigured
from celeriac.utils.secrets import masked
from celeriac.webhooks import WebhookVerificationError, sign, verify

BODY = '{"test": 2432232314}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_614_265_330
#: The example of the specification's libraries.
HEADERS = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": str(NOW),
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def test_the_example_of_the_standard_is_verified() -> None:
    assert verify(BODY, HEADERS, SECRET, now=NOW) == {"test": 2432232314}
    assert sign(BODY, HEADERS["webhook-id"], NOW, SECRET) == HEADERS["webhook-signature"]


@pytest.mark.parametrize(
    "headers",
    [
        {name.title(): value for name, value in HEADERS.items()},
        {name.encode(): value.encode() for name, value in HEADERS.items()},
        {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in HEADERS.items()},
        list(HEADERS.items()),
    ],
    ids=["titles", "bytes", "WSGI", "pairs"],
)
def test_headers_may_be_of_any_framework(headers: Any) -> None:
    assert verify(BODY.encode(), headers, [SECRET], now=NOW)


def test_header_objects_of_werkzeug_and_starlette_are_taken() -> None:
    werkzeug = pytest.importorskip("werkzeug.datastructures")
    assert verify(BODY, werkzeug.Headers(HEADERS), SECRET, now=NOW)
    starlette = pytest.importorskip("starlette.datastructures")
    assert verify(BODY, starlette.Headers(HEADERS), SECRET, now=NOW)


def test_one_secret_and_one_signature_that_fit_are_enough() -> None:
    signed = f"v1,AAAA v2,xyz {sign(BODY, 'id', NOW, 'old')} v1,{'A' * 43}="
    headers = {**HEADERS, "webhook-id": "id", "webhook-signature": signed}
    assert verify(BODY, headers, ["new", "old"], now=NOW)
    with pytest.raises(WebhookVerificationError, match="no signature fits"):
        verify(BODY, headers, ["new"], now=NOW)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"webhook-id": "other"}, "no signature fits"),
        ({"webhook-timestamp": str(NOW + 1)}, "no signature fits"),
        ({"webhook-signature": "v1,???"}, "no signature fits"),
        ({"webhook-signature": ""}, "no signature fits"),
        ({"webhook-signature": HEADERS["webhook-signature"].replace("v1", "v1a")}, "no signature fits"),
        ({"webhook-timestamp": "soon"}, "not a number"),
        ({"webhook-timestamp": str(NOW - 301)}, "ago"),
        ({"webhook-timestamp": str(NOW + 301)}, "in the future"),
    ],
)
def test_what_was_changed_or_is_old_is_refused(changed: dict[str, str], why: str) -> None:
    with pytest.raises(WebhookVerificationError, match=why):
        verify(BODY, {**HEADERS, **changed}, SECRET, now=NOW)


def test_a_changed_body_and_a_missing_header_are_refused() -> None:
    with pytest.raises(WebhookVerificationError, match="no signature fits"):
        verify(BODY + " ", HEADERS, SECRET, now=NOW)
    for name in HEADERS:
        with pytest.raises(WebhookVerificationError, match=f"{name} is missing"):
            verify(BODY, {key: value for key, value in HEADERS.items() if key != name}, SECRET, now=NOW)
    with pytest.raises(ValueError, match="no secret"):
        verify(BODY, HEADERS, [], now=NOW)


@pytest.mark.parametrize(
    ("wrong", "error", "why"),
    [
        ("ftp://example.com", ValueError, "http://"),
        ("https://me:sesame@example.com", ValueError, "user name"),
        (7, TypeError, "URL or a mapping"),
        ({"secret": "a"}, ValueError, "no url"),
        ({"url": "https://example.com", "secret": "whsec_sesame"}, ValueError, "names its secret"),
        ({"url": "https://example.com", "on": "retry"}, ValueError, "on success"),
        ({"url": "https://example.com", "headers": {"Host": "x"}}, ValueError, "Host"),
        ({"url": "https://example.com", "timeout": 0}, ValueError, "timeout"),
        ({"url": "https://example.com", "typo": 1}, ValueError, "typo"),
    ],
)
def test_wrong_options_are_refused_at_the_call(wrong: Any, error: type[Exception], why: str) -> None:
    app = Celery("hooks", broker="memory://", set_as_current=False)
    with pytest.raises(error, match=why) as raised:
        app.send_task("t", webhook=wrong)
    assert "sesame" not in str(raised.value)


def test_wrong_ones_of_a_task_or_an_app_are_refused_before_anything_runs() -> None:
    app = Celery("hooks", broker="memory://", set_as_current=False)

    @app.task(name="t", webhook="ftp://example.com")
    def t() -> None:
        pass

    with pytest.raises(ImproperlyConfigured, match=r"task t: .*http://"):
        app.finalize()
    app = Celery("hooks", broker="memory://", set_as_current=False)
    app.conf.task_webhook = {"on": ["success"]}
    with pytest.raises(ImproperlyConfigured, match="task_webhook: webhook has no url"):
        worker_options(app, node="a@b")


def test_options_have_one_form() -> None:
    assert as_options("https://example.com/a") == {"url": "https://example.com/a"}
    full = {"url": "https://example.com/a", "on": "failure", "secret": "acme", "headers": None}
    assert as_options(full) == {"url": "https://example.com/a", "on": ["failure"], "secret": "acme"}
    assert as_options(False) is False


def test_secrets_are_lists_by_name_and_are_never_shown() -> None:
    assert secrets(None) == {}
    assert secrets("one") == {"": ["one"]}
    assert secrets(["new", "old"]) == {"": ["new", "old"]}
    assert secrets({"": ["new", "old"], "acme": "a"}) == {"": ["new", "old"], "acme": ["a"]}
    for wrong in (7, [7], {"acme": [None]}, [""]):
        with pytest.raises(ImproperlyConfigured, match="webhook_secrets is"):
            secrets(wrong)
    assert "sesame" not in repr(masked("webhook_secrets", {"acme": ["sesame"]}))
