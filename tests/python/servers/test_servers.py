"""The servers of the tests are there, are private, and are gone when the tests are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import amqp
import pytest
import redis

from .proxy import Proxy
from .rabbitmq_server import RabbitServer
from .redis_server import RedisServer
from .run import until
from .shared import ROOT


def connect(url: str) -> amqp.Connection:
    """A plain AMQP connection."""
    address, _, host = url.removeprefix("amqp://guest:guest@").partition("/")
    connection = amqp.Connection(address, virtual_host=host or "/")
    connection.connect()
    return connection


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def test_the_shared_redis_gives_each_test_an_empty_database(raw: redis.Redis, shared: object) -> None:
    raw.set("mine", 1)

    with redis.Redis.from_url(shared.redis()) as other:  # type: ignore[attr-defined]
        assert other.keys() == []
        assert raw.keys() == [b"mine"]


def test_the_shared_rabbitmq_gives_each_test_an_empty_virtual_host(rabbitmq_url: str, shared: object) -> None:
    with closing(connect(rabbitmq_url)) as connection:
        connection.channel().queue_declare("mine", durable=True)

    with closing(connect(shared.rabbitmq())) as other, pytest.raises(amqp.NotFound):  # type: ignore[attr-defined]
        other.channel().queue_declare("mine", passive=True)


def test_a_redis_of_ones_own_keeps_what_it_appended_when_it_is_killed(own_redis: Callable[..., RedisServer]) -> None:
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    with redis.Redis.from_url(server.url()) as client:
        client.set("k", "v")

    server.stop(hard=True)
    server.start()

    with redis.Redis.from_url(server.url()) as client:
        assert client.get("k") == b"v"


def test_a_rabbitmq_of_ones_own_keeps_durable_queues_over_a_restart(
    own_rabbitmq: Callable[..., RabbitServer],
) -> None:
    server = own_rabbitmq()
    with closing(connect(server.url())) as connection:
        connection.channel().queue_declare("q", durable=True)
        connection.channel().basic_publish_confirm(amqp.Message(b"x", delivery_mode=2), routing_key="q")

    server.stop(hard=True)
    server.start()

    with closing(connect(server.url())) as connection:
        assert connection.channel().queue_declare("q", passive=True).message_count == 1


SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests.python.servers.shared import Shared
from tests.python.servers.redis_server import RedisServer

shared = Shared(Path(sys.argv[1]))
print(shared._server("redis")["folder"], RedisServer(Path(sys.argv[1]) / "own").start().process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_no_server_behind(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_XDIST_WORKER"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder, own = done.stdout.split()

    until(lambda: not Path(folder).exists(), 20, "the shared server is gone")
    until(lambda: not Path(f"/proc/{own}").exists(), 20, "the own server is gone")


class TestProxy:
    """A Redis behind the proxy."""

    @pytest.fixture
    def between(self, redis_url: str, proxy: Callable[[int], Proxy]) -> Proxy:
        return proxy(int(redis_url.rsplit(":", 1)[1].split("/")[0]))

    @pytest.fixture
    def client(self, redis_url: str, between: Proxy) -> Iterator[redis.Redis]:
        database = redis_url.rsplit("/", 1)[1]
        url = f"redis://127.0.0.1:{between.port}/{database}"
        with redis.Redis.from_url(url, socket_timeout=1, retry=None, protocol=2) as client:
            yield client

    def test_it_forwards(self, client: redis.Redis, between: Proxy, raw: redis.Redis) -> None:
        value = os.urandom(1_000_000)
        client.set("k", value)

        assert client.get("k") == value == raw.get("k")
        assert between.counts()["down"] > 1_000_000

    def test_it_cuts_after_the_request_and_before_the_answer(
        self, client: redis.Redis, between: Proxy, raw: redis.Redis
    ) -> None:
        between.arm("up", b"INCR", then="reply", skip=1)
        assert client.incr("n") == 1

        with pytest.raises(redis.ConnectionError):
            client.incr("n")

        assert raw.get("n") == b"2"
        assert client.incr("n") == 3
        assert between.counts()["cut"] == 1

    def test_it_cuts_before_the_request(self, client: redis.Redis, between: Proxy, raw: redis.Redis) -> None:
        between.arm("up", b"INCR", then="before")

        with pytest.raises(redis.ConnectionError):
            client.incr("n")

        assert raw.get("n") is None

    def test_it_cuts_after_some_bytes(self, client: redis.Redis, between: Proxy) -> None:
        client.set("k", "x" * 1_000)
        between.cut_after("down", 500)

        with pytest.raises(redis.ConnectionError):
            client.get("k")

    def test_it_cuts_everything_at_once(self, client: redis.Redis, between: Proxy) -> None:
        client.ping()

        assert between.cut() == 1
        with suppress(redis.ConnectionError):  # unless the client sees by itself that its connection is gone
            client.ping()
        assert client.ping()

        counts = between.counts()
        assert (counts["opened"], counts["open"]) == (2, 1)

    def test_it_stalls_and_goes_on(self, client: redis.Redis, between: Proxy) -> None:
        client.ping()
        between.stall()

        with pytest.raises(redis.TimeoutError):
            client.ping()

        between.resume()
        assert client.ping()

    def test_it_refuses_and_accepts_again(self, client: redis.Redis, between: Proxy) -> None:
        client.ping()
        between.refuse()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", between.port), 1):
            pass

        between.accept()

        assert client.ping()
