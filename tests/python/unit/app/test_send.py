"""Messages against those that Celery sent, and what is refused before anything is sent."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import uuid
from typing import Any

import pytest

from celeriac import Celery, chain
from celeriac.app import send
from celeriac.exceptions import EncodeError, ImproperlyConfigured
from celeriac.signals import after_task_publish, before_task_publish

UTC = dt.UTC
NOW = dt.datetime(2026, 11, 21, 20, 0, tzinfo=UTC)

#: Cases of messages that need nothing this version has not: no groups, no stamps, protocol 2.
CASES = [
    "argsrepr",
    "argsrepr_deep",
    "argsrepr_long",
    "chain_3",
    "chain_immutable",
    "chain_link",
    "chain_nested",
    "chain_options",
    "countdown",
    "countdown_timezone",
    "countdown_timezone_utc",
    "default_names",
    "delay_args",
    "delay_empty",
    "delay_unicode",
    "delivery_mode_1",
    "eta_aware",
    "eta_naive",
    "expires_datetime",
    "expires_past",
    "expires_seconds",
    "gzip",
    "headers_custom",
    "ignore_result",
    "ignore_result_task",
    "json_types",
    "link",
    "link_error_new",
    "link_error_old",
    "link_many",
    "msgpack",
    "priority_0",
    "priority_5",
    "priority_9",
    "priority_default",
    "properties_custom",
    "queue_named",
    "routed",
    "send_task",
    "shadow",
    "signature_options",
    "task_compression",
    "task_id",
    "time_limits",
    "yaml",
    "zlib",
]


def rich_values() -> dict[str, Any]:
    return {
        "datetime_utc": dt.datetime(2024, 2, 29, 12, 30, 15, 123456, UTC),
        "datetime_naive": dt.datetime(2024, 2, 29, 12, 30, 15),
        "datetime_offset": dt.datetime(
            2024, 2, 29, 12, 30, 15, tzinfo=dt.timezone(dt.timedelta(hours=-5, minutes=-30))
        ),
        "date": dt.date(2024, 2, 29),
        "time": dt.time(23, 59, 58, 7),
        "decimal": decimal.Decimal("10.50"),
        "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
        "bytes_utf8": b"plain",
        "bytes_binary": b"\xff\xfe\x00",
        "tuple": (1, 2),
        "text": "snow \u2603 \U0001f600 \u0007",
        "float": 1.5,
        "big": 2**70,
        "none": None,
        "true": True,
    }


class Outbox:
    """Stands in for the engine's client; keeps what is published."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        #: Time limit, retry policy and whether results are wanted, of each batch.
        self.how: list[tuple[Any, ...]] = []

    def publish(self, batch, *how):
        self.sent.extend(batch)
        self.how.append(how)


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> Outbox:
    box = Outbox()
    monkeypatch.setattr(Celery, "client", box)
    return box


def run(source: str, app: Celery, tasks: Any) -> None:
    names = {**vars(tasks), "app": app, "chain": chain, "rich_values": rich_values}
    exec(source, {**names, "datetime": dt.datetime, "timedelta": dt.timedelta, "timezone": dt.timezone})


@pytest.mark.parametrize("case", CASES)
def test_a_message_is_what_celery_sends(case: str, golden, register, outbox: Outbox, monkeypatch) -> None:
    recorded = golden(f"redis_messages/{case}")
    settings = {**recorded["settings"]}
    app = Celery("capture", broker="sqlite:///unused.db", **settings)
    ids = _ids_of(recorded)
    monkeypatch.setattr(send, "uuid", lambda: ids[0])

    run(recorded["call"], app, register(app))

    (publication,) = outbox.sent
    (message,) = recorded["messages"]
    expected = message["decoded"]
    headers, theirs = publication.headers, expected["headers"]
    assert list(headers) == list(theirs)
    for name in theirs.keys() - {"id", "root_id", "origin", "eta", "expires"}:
        assert headers[name] == theirs[name], name
    for name in ("eta", "expires"):
        _assert_same_form(headers[name], theirs[name])
    assert headers["root_id"] == headers["id"]
    _assert_properties(publication, expected)
    ours, theirs_body = _neutral(publication), _neutral_body(expected)
    assert ours == theirs_body


@pytest.mark.parametrize("case", ["protocol_1", "protocol_1_options", "chain_protocol_1"])
def test_protocol_1_is_written_as_celery_writes_it(case: str, golden, register, outbox: Outbox) -> None:
    recorded = golden(f"redis_messages/{case}")
    app = Celery("capture", broker="sqlite:///unused.db", **recorded["settings"])

    run(recorded["call"], app, register(app))

    (publication,) = outbox.sent
    assert publication.headers == {}
    ours, theirs = json.loads(publication.body), recorded["messages"][0]["decoded"]["body (decoded)"]
    assert list(ours) == list(theirs)
    assert publication.properties["correlation_id"] == ours.pop("id")
    del theirs["id"]
    for name in ("eta", "expires"):
        _assert_same_form(ours.pop(name), theirs.pop(name))
    assert _without_ids(ours) == _without_ids(theirs)


def _ids_of(recorded: Any) -> list[str]:
    return [message["decoded"]["headers"]["id"] for message in recorded["messages"]]


def _assert_same_form(ours: str | None, theirs: str | None) -> None:
    if theirs is None or "2030" in theirs or "2020" in theirs:
        assert ours == theirs
        return
    assert ours is not None
    first, second = dt.datetime.fromisoformat(ours), dt.datetime.fromisoformat(theirs)
    assert first.utcoffset() == second.utcoffset() or first.tzinfo is not None
    assert len(ours) == len(theirs)


def _assert_properties(publication: Any, expected: Any) -> None:
    ours, theirs = dict(publication.properties), dict(expected["properties"])
    assert ours.pop("content_type") == expected["content-type"]
    assert ours.pop("content_encoding") == expected["content-encoding"]
    # Written by the transport, not by the sender; a priority of 0 is what a transport makes of none.
    info = theirs.pop("delivery_info")
    for name in ("body_encoding", "delivery_tag"):
        theirs.pop(name)
    # Celery leaves these two headers among the properties as well; nobody reads them there.
    for name in ("argsrepr", "kwargsrepr"):
        theirs.pop(name, None)
    assert ours.pop("priority", 0) == theirs.pop("priority")
    assert (publication.exchange, publication.routing_key) == (info["exchange"], info["routing_key"])
    assert ours.pop("correlation_id") == publication.headers["id"]
    theirs.pop("correlation_id")
    if "expiration" in theirs and theirs["expiration"] != "0":
        assert abs(int(ours.pop("expiration")) - int(theirs.pop("expiration"))) < 10_000_000_000_000
    if theirs["reply_to"] != "my-replies":
        theirs["reply_to"] = ours["reply_to"]
    assert ours == theirs


def _neutral(publication: Any) -> Any:
    from celeriac import _core

    data = publication.body
    if "compression" in publication.headers:
        data = _core.decompress(data, publication.headers["compression"], 1 << 20)
    content_type = publication.properties["content_type"]
    if content_type == "application/json":
        return _without_ids(json.loads(data))
    from celeriac.serialization import registry

    return registry.loads(data, content_type, publication.properties["content_encoding"])


def _neutral_body(expected: Any) -> Any:
    import base64

    from celeriac import _core
    from celeriac.serialization import registry

    data = base64.b64decode(expected["body"])
    if "compression" in expected["headers"]:
        data = _core.decompress(data, expected["headers"]["compression"], 1 << 20)
    if expected["content-type"] == "application/json":
        return _without_ids(json.loads(data))
    return registry.loads(data, expected["content-type"], expected["content-encoding"])


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "<id>" if key in {"task_id", "reply_to"} else _without_ids(item) for key, item in value.items()}
    return [_without_ids(item) for item in value] if isinstance(value, list) else value


def test_a_plain_json_body_is_celerys_byte_for_byte(app: Celery, golden, register, outbox: Outbox) -> None:
    recorded = golden("redis_messages/delay_unicode")

    run(recorded["call"], app, register(app))

    import base64

    assert outbox.sent[0].body == base64.b64decode(recorded["messages"][0]["decoded"]["body"])


def test_eta_is_given_in_milliseconds_too(app: Celery) -> None:
    eta = dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)

    assert send.build(app, "t", eta=eta).due_ms == int(eta.timestamp() * 1000)
    assert send.build(app, "t", eta=eta.replace(tzinfo=None)).due_ms == int(eta.timestamp() * 1000)
    assert send.build(app, "t").due_ms is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"args": {"a": 1}}, TypeError),
        ({"kwargs": [1]}, TypeError),
        ({"time_limit": 1, "soft_time_limit": 2}, ValueError),
        ({"countdown": -3_000_000_000}, ValueError),
        ({"expires": -3_000_000_000}, ValueError),
        ({"args": ({1, 2},)}, EncodeError),
        ({"compression": "brotli"}, ImproperlyConfigured),
    ],
)
def test_what_cannot_be_sent_is_refused(app: Celery, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        send.build(app, "t", **options)


def test_before_task_publish_may_change_headers_properties_and_body(app: Celery, outbox: Outbox) -> None:
    @before_task_publish.connect
    def change(sender, headers, properties, body, **_):
        headers["tenant"] = sender
        properties["message_id"] = "m"
        body[1]["more"] = 1

    try:
        app.send_task("t", kwargs={})
    finally:
        before_task_publish.disconnect(change)

    (sent,) = outbox.sent
    assert sent.headers["tenant"] == "t"
    assert sent.properties["message_id"] == "m"
    assert json.loads(sent.body)[1] == {"more": 1}


def test_after_task_publish_comes_when_the_broker_has_the_message(app: Celery, outbox: Outbox) -> None:
    seen: list[Any] = []

    def note(sender, headers, routing_key, **_):
        seen.append((sender, headers["id"], routing_key, len(outbox.sent)))

    after_task_publish.connect(note)
    try:
        result = app.send_task("t")
    finally:
        after_task_publish.disconnect(note)

    assert seen == [("t", result.id, "celery", 1)]


@pytest.mark.parametrize(
    ("settings", "options", "how"),
    [
        ({}, {}, (None, (3, 0, 0.2, 1), True)),
        ({}, {"retry": False, "timeout": 2}, (2, None, True)),
        ({"task_publish_retry": False}, {"ignore_result": True}, (None, None, False)),
        ({"task_publish_retry": False}, {"retry": True, "timeout": 9, "confirm_timeout": 3}, (3, (3, 0, 0.2, 1), True)),
        ({}, {"retry_policy": {"max_retries": None, "interval_start": 1}}, (None, (None, 1, 0.2, 1), True)),
        (
            {"task_publish_retry_policy": {"max_retries": 5, "interval_start": 0.5}},
            {"retry_policy": {"interval_max": 2}},
            (None, (5, 0.5, 0, 2), True),
        ),
    ],
)
def test_publishing_is_tried_again_as_settings_and_call_say(
    app: Celery, outbox: Outbox, settings: dict[str, Any], options: dict[str, Any], how: tuple[Any, ...]
) -> None:
    app.conf.update(settings)

    app.send_task("t", **options)

    assert outbox.how == [how]


def test_a_task_sent_by_a_task_knows_its_parent(app: Celery, register, outbox: Outbox) -> None:
    tasks = register(app)

    @app.task(name="outer", bind=True)
    def outer(self):
        return tasks.add.delay(1, 2)

    result = outer.apply(task_id="outer-id")

    (sent,) = outbox.sent
    assert sent.headers["parent_id"] == sent.headers["root_id"] == "outer-id"
    assert result.get().id == sent.headers["id"]


def test_retry_sends_the_same_call_with_one_retry_more(app: Celery, register, outbox: Outbox, golden) -> None:
    recorded = golden("redis_results/retry")["messages_published"]
    theirs = [json.loads(message["raw"])["headers"] for message in recorded]
    retry_later = register(app).retry_later
    retry_later.push_request(
        theirs[0],
        args=[1],
        kwargs={"key": "k"},
        called_directly=False,
        delivery_info={"exchange": "", "routing_key": "celery", "priority": 0},
    )
    from celeriac import _state
    from celeriac.exceptions import Retry

    _state.push_current_task(retry_later)
    try:
        with pytest.raises(Retry):
            retry_later.run(1, key="k")
    finally:
        _state.pop_current_task()
        retry_later.pop_request()

    ours = outbox.sent[0].headers
    assert list(ours) == list(theirs[1])
    for name in ours.keys() - {"eta"}:
        assert ours[name] == theirs[1][name], name
    assert outbox.sent[0].routing_key == "celery"
    assert outbox.sent[0].due_ms is not None
