"""Messages that nobody should have sent, on real brokers: refused in bounded memory, and the worker goes on."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import amqp
import pytest
import redis

from ..faults.fleet import rss_kib
from ..integration.conftest import Project, wait_until
from ..servers.shared import Shared
from .conftest import SECRET, TASKS

LIMIT = 10_000_000
ID = "bad-1"
HEAD = {"task": "add", "id": ID}
GOOD = b"[[1, 1], {}, {}]"
DEEP = b"[[" + b"[" * 10_000 + b"]" * 10_000 + b"], {}, {}]"
BOMB = zlib.compress(b'[["' + b"x" * 200_000_000 + b'", 1], {}, {}]', 9)


def envelope(body: bytes = GOOD, headers: Any = None, **changes: Any) -> dict[str, Any]:
    """A list element as Celery's client writes it, but for the changes; None removes."""
    properties = {
        "correlation_id": ID,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "6ac9fa3b-44f4-4bf1-a75b-6b3fdd1ac3ca",
    }
    whole: dict[str, Any] = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": HEAD if headers is None else headers,
        "properties": properties,
    }
    for name, value in changes.items():
        key = name.replace("_", "-") if name.startswith("content") else name
        place = whole if key in whole else properties
        if value is None:
            place.pop(key)
        else:
            place[key] = value
    return whole


#: Rows of what kills, or is dropped by, a worker of Celery: the list element, and with which reason it is kept.
ON_REDIS: dict[str, tuple[Any, str | None]] = {
    "not JSON": (b"hunter2 {", "malformed"),
    "not UTF-8": (b"\xff\xfehunter2", "malformed"),
    "JSON, no object": (b'["hunter2"]', "malformed"),
    "an empty object": (b"{}", "malformed"),
    "empty": (b"", "malformed"),
    "no body": (json.dumps({"headers": HEAD, "properties": {}}).encode(), "malformed"),
    "body no base64": (envelope(body=b"") | {"body": "hunter2 *"}, "malformed"),
    "two elements": (envelope(b"[[1, 1], {}]"), "malformed"),
    "no content type": ({k: v for k, v in envelope().items() if k != "content-type"}, "malformed"),
    "content type that nobody knows": (envelope(content_type="text/x-nobody"), "disallowed"),
    "pickle": (envelope(b"cos\nsystem\n(S'hunter2'\ntR.", content_type="application/x-python-serialize"), "disallowed"),
    "headers null": (envelope() | {"headers": None}, "malformed"),
    "kwargs null": (envelope(b"[[1, 1], null, {}]"), "malformed"),
    "args an object": (envelope(b'[{"hunter2": 1}, {}, {}]'), "malformed"),
    "body not JSON": (envelope(b"hunter2"), "malformed"),
    "eta a number": (envelope(headers={**HEAD, "eta": 5}), "malformed"),
    "eta no date": (envelope(headers={**HEAD, "eta": "tomorrow"}), "malformed"),
    "expires no date": (envelope(headers={**HEAD, "expires": "soon"}), "malformed"),
    "unknown compression": (envelope(headers={**HEAD, "compression": "application/x-nope"}), "malformed"),
    "unknown task": (envelope(headers={**HEAD, "task": "no.such.task"}), "unknown"),
    "10,000 deep": (envelope(DEEP), "malformed"),
    "deep envelope": (b'{"headers": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed"),
    "zip bomb": (envelope(BOMB, headers={**HEAD, "compression": "application/x-gzip"}), "malformed"),
    "50 MB": (envelope(b'[["' + b"x" * 50_000_000 + b'", 1], {}, {}]'), "too-large"),
    # These lose a message of Celery's, or kill its worker; nothing is missing that is needed to run them.
    "no delivery_info": (envelope(delivery_info=None), None),
    "no delivery_tag": (envelope(delivery_tag=None), None),
    "nothing but headers": (envelope() | {"properties": {}, "body": "[[1, 1], {}, {}]"}, None),
}

#: The same for RabbitMQ: body, headers, properties, reason.
JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
ON_RABBITMQ: dict[str, tuple[bytes, Any, dict[str, Any], str | None]] = {
    "not JSON": (b"hunter2", HEAD, JSON, "malformed"),
    "empty": (b"", HEAD, JSON, "malformed"),
    "two elements": (b"[[1, 1], {}]", HEAD, JSON, "malformed"),
    "no content type": (GOOD, HEAD, {}, "disallowed"),
    "content type that nobody knows": (GOOD, HEAD, {"content_type": "text/x-nobody"}, "disallowed"),
    "pickle": (
        b"cos\nsystem\n(S'hunter2'\ntR.",
        HEAD,
        {"content_type": "application/x-python-serialize"},
        "disallowed",
    ),
    "no headers": (GOOD, {}, JSON, "malformed"),
    "kwargs null": (b"[[1, 1], null, {}]", HEAD, JSON, "malformed"),
    "args an object": (b'[{"hunter2": 1}, {}, {}]', HEAD, JSON, "malformed"),
    "eta a number": (GOOD, {**HEAD, "eta": 5}, JSON, "malformed"),
    "expires no date": (GOOD, {**HEAD, "expires": "soon"}, JSON, "malformed"),
    "task a table": (GOOD, {"task": {"hunter2": 1}, "id": ID}, JSON, "malformed"),
    "unknown compression": (GOOD, {**HEAD, "compression": "application/x-nope"}, JSON, "malformed"),
    "unknown task": (GOOD, {**HEAD, "task": "no.such.task"}, JSON, "unknown"),
    "10,000 deep": (DEEP, HEAD, JSON, "malformed"),
    "zip bomb": (BOMB, {**HEAD, "compression": "application/x-gzip"}, JSON, "malformed"),
    "50 MB": (b'[["' + b"x" * 50_000_000 + b'", 1], {}, {}]', HEAD, JSON, "too-large"),
    "nothing but headers": (GOOD, HEAD, {"content_type": "application/json"}, None),
}


class Place:
    """A worker on a real broker that is given one message after the other."""

    def __init__(self, folder: Path, broker: str, backend: str) -> None:
        self.project = Project(folder, broker, backend)
        self.project.write(TASKS, worker_max_message_bytes=LIMIT)
        self.worker = self.project.start("-c", "1")
        assert self.project.send("add", 1, 1).get(timeout=30) == 2
        self.memory = rss_kib(self.worker.pid)
        self.known: list[dict[str, Any]] = []

    def new_letters(self) -> list[dict[str, Any]]:
        """Dead letters of this case."""
        return [letter for letter in self.project.client.client.dead_letters() if letter not in self.known]

    def told(self) -> list[str]:
        """What the log says of this case."""
        return [line for line in list(self.worker.lines) if "ERROR/" in line or "WARNING/" in line]

    def refuses(self, reason: str | None) -> None:
        """The message is kept with its reason (None: it is run), and a good one behind it runs."""
        assert self.project.send("add", 1, 1).get(timeout=60) == 2
        assert self.worker.process.poll() is None
        if reason is None:
            assert self.project.client.AsyncResult(ID).get(timeout=30) == 2
        else:
            letters = wait_until(self.new_letters, "the dead letter", 10)
            assert [letter["reason"] for letter in letters] == [reason], letters
            told = wait_until(self.told, f"a line in the log: {self.worker.log}", 5)
            assert max(map(len, told)) < 500
        assert "Traceback" not in self.worker.log
        assert SECRET not in self.worker.log
        grown = rss_kib(self.worker.pid) - self.memory
        # Twice what a message may have, with what the allocator keeps.
        assert grown < 150 * 1024, f"{grown} KiB"

    def close(self) -> None:
        self.project.close()


@pytest.fixture(scope="module")
def redis_place(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("redis"), shared.redis(), shared.redis())
    yield place
    place.close()


@pytest.fixture(scope="module")
def rabbitmq_place(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("rabbitmq"), shared.rabbitmq(), shared.redis())
    yield place
    place.close()


def forget(place: Place) -> None:
    """What the case before has left."""
    place.known = place.project.client.client.dead_letters()
    place.project.client.AsyncResult(ID).forget()
    place.worker.lines.clear()


@pytest.mark.parametrize("case", ON_REDIS)
def test_a_bad_list_element_is_refused(case: str, redis_place: Place) -> None:
    element, reason = ON_REDIS[case]
    forget(redis_place)
    with redis.Redis.from_url(redis_place.project.url) as raw:
        raw.lpush("celery", element if isinstance(element, bytes) else json.dumps(element))

        redis_place.refuses(reason)

        wait_until(lambda: raw.llen("celery") == raw.hlen("unacked") == raw.zcard("unacked_index") == 0, "nothing left")


@pytest.mark.parametrize("case", ON_RABBITMQ)
def test_a_bad_message_is_refused(case: str, rabbitmq_place: Place) -> None:
    body, headers, properties, reason = ON_RABBITMQ[case]
    forget(rabbitmq_place)
    address, _, host = rabbitmq_place.project.url.removeprefix("amqp://guest:guest@").partition("/")
    with closing(amqp.Connection(address, virtual_host=host)) as connection:
        connection.connect()
        message = amqp.Message(body, application_headers=headers, correlation_id=ID, **properties)
        connection.channel().basic_publish_confirm(message, routing_key="celery")

        rabbitmq_place.refuses(reason)


def test_an_expiry_that_no_server_takes_is_kept_by_the_worker(rabbitmq_place: Place) -> None:
    sixty_days = 60 * 86_400

    assert rabbitmq_place.project.client.send_task("add", (1, 1), expires=sixty_days).get(timeout=30) == 2
