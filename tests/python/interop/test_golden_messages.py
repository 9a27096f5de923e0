"""Every message that Celery was seen to write is taken from a real broker, and gives what it gives Celery's worker."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import amqp
import pytest
import redis

from ..servers.run import until
from ..servers.shared import Shared
from .battery import LIBRARY, ROOT, Place, Side, rabbitmq_place, redis_place

GOLDEN = ROOT / "tests/golden"
#: Not in Celery's own dependencies, and not in ours.
UNSUPPORTED = {"brotli", "lzma"}
#: Celery's worker dies of it, where nothing is said of certificates. Ours gets it too.
SIGNED = "signed_auth"
#: The broker itself may drop what has expired.
EXPIRED = {"expires_past", "expires_seconds", "protocol_1_options"}


def messages(broker: str, *without: str) -> list[tuple[str, dict[str, Any]]]:
    """Each message with the name of its case."""
    found = []
    for path in sorted((GOLDEN / f"{broker}_messages").glob("*.json")):
        if path.stem in without:
            continue
        found += [(path.stem, message) for message in json.loads(path.read_text()).get("messages", ())]
    assert len(found) > 90
    return found


def headers_of(message: dict[str, Any]) -> dict[str, Any]:
    """What is said of the task: in the headers, or in the body of protocol 1."""
    inside = message.get("decoded", message)
    if inside["headers"]:
        return inside["headers"]
    body = inside.get("body (decoded)") or json.loads(inside["body"])
    assert isinstance(body, dict)
    return body


def expected_ids(broker: str) -> list[str]:
    """Those whose result is stored at once."""
    ids = []
    for name, message in messages(broker, SIGNED):
        about = headers_of(message)
        eta = about.get("eta")
        far = eta is not None and dt.datetime.fromisoformat(eta).replace(
            tzinfo=None
        ) > dt.datetime.now() + dt.timedelta(1)
        silent = about.get("ignore_result") or about["task"] in {"demo.quiet", "celery.chord_unlock"}
        if not far and not silent and name not in UNSUPPORTED | (EXPIRED if broker == "amqp" else set()):
            ids.append(about["id"])
    assert len(ids) > 80
    return ids


def push_to_redis(url: str, *without: str) -> None:
    with redis.Redis.from_url(url) as client:
        for _, message in messages("redis", *without):
            client.lpush("celery", message["raw"])


def push_to_rabbitmq(url: str, *without: str) -> None:
    address, _, host = url.removeprefix("amqp://guest:guest@").partition("/")
    with closing(amqp.Connection(address, virtual_host=host)) as connection:
        connection.connect()
        channel = connection.channel()
        channel.exchange_declare("celery", "direct", durable=True, auto_delete=False)
        channel.queue_declare("celery", durable=True, auto_delete=False)
        channel.queue_bind("celery", "celery", "celery")
        for _, message in messages("amqp", *without):
            body = message["body"] if "body" in message else base64.b64decode(message["body_base64"])
            given = {key: value for key, value in message["properties"].items() if key != "user_id"}
            sent = amqp.Message(body, application_headers=message["headers"], **given)
            channel.basic_publish_confirm(sent, routing_key="celery")


def stored(place: Place, ids: list[str]) -> dict[str, Any]:
    """The records of these, or of as many as there are."""
    with redis.Redis.from_url(place.backend) as client:
        found = client.mget([f"celery-task-meta-{one}" for one in ids])
    return {one: json.loads(record) for one, record in zip(ids, found, strict=True) if record}


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    tidy = {**record, "date_done": bool(record["date_done"])}
    if record["traceback"]:
        tidy["traceback"] = LIBRARY.sub("<library>.", record["traceback"].rstrip().splitlines()[-1])
    # Follow-ups have new ids.
    tidy["children"] = len(record["children"] or ())
    return tidy


def run(library: str, broker: str, place: Place, folder: Path, push: Callable[..., None]) -> dict[str, Any]:
    """What a worker makes of all of them."""
    folder.mkdir()
    ids = expected_ids(broker)
    worker = Side(library, place, folder).worker(
        "-c", "4", "-Q", "celery,first,second,hipri,lopri,images,work", app="golden_app"
    )
    try:
        push(place.broker, *([SIGNED] if library == "celery" else []))
        until(
            lambda: len(stored(place, ids)) == len(ids),
            30,
            f"records of {library}; without: {sorted(set(ids) - stored(place, ids).keys())}, log {worker.output}",
        )
        assert worker.process.poll() is None
    finally:
        worker.stop(hard=True)
    return {one: comparable(record) for one, record in stored(place, ids).items()}


@pytest.mark.parametrize(
    ("broker", "make", "push"),
    [("redis", redis_place, push_to_redis), ("amqp", rabbitmq_place, push_to_rabbitmq)],
    ids=["redis", "rabbitmq"],
)
def test_golden_messages_give_what_they_give_celery(
    broker: str,
    make: Callable[[Shared], Place],
    push: Callable[..., None],
    shared: Shared,
    tmp_path: Path,
) -> None:
    expected = run("celery", broker, make(shared), tmp_path / "celery", push)
    seen = run("celeriac", broker, make(shared), tmp_path / "celeriac", push)

    names = {headers_of(message)["id"]: name for name, message in messages(broker, SIGNED)}
    apart = [f"{names[one]}: {expected[one]} and {seen[one]}" for one in expected if expected[one] != seen[one]]
    assert not apart, "\n".join(apart)
