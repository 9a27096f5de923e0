"""The private servers of a run: Redis (with the few commands the harness needs) and RabbitMQ, on free ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import processes

START_SECONDS = 60.0


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def install(program: str, package: str) -> None:
    """Installs what is missing, where there is apt."""
    if shutil.which(program) is None and not Path("/usr/sbin", program).exists():
        sudo = [] if os.geteuid() == 0 else ["sudo"]
        subprocess.run([*sudo, "apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
        command = [*sudo, "apt-get", "install", "-y", "-q", "--no-install-recommends", package]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    """Until the server listens."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{server.args!r} does not listen on port {port}")


class Redis:
    """The server of a run, and one connection to it."""

    def __init__(self, port: int, pid: int) -> None:
        self.url = f"redis://127.0.0.1:{port}"
        self.pid = pid
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.reader = self.socket.makefile("rb")

    def do(self, *words: str | bytes) -> Any:
        """One command."""
        self.socket.sendall(encoded(words))
        return self.reply()

    def reply(self) -> Any:
        """One reply, whatever its type."""
        kind, rest = (line := self.reader.readline())[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else self.reader.read(length + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return rest

    def commands(self) -> int:
        """How many commands it has run (those inside scripts too), without our own question."""
        lines = self.do("INFO", "commandstats").decode().splitlines()
        stats = [line for line in lines if line.startswith("cmdstat_") and not line.startswith("cmdstat_info:")]
        return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in stats)

    def cpu(self) -> float:
        """CPU of the server in seconds, from its scheduler clock: finer than what INFO tells."""
        return processes.clock(self.pid)

    def count(self, pattern: str) -> int:
        """Keys that match, in every database that is used."""
        found = 0
        for line in self.do("INFO", "keyspace").decode().splitlines():
            if line.startswith("db"):
                self.do("SELECT", line[2:].partition(":")[0])
                cursor = "0"
                while True:
                    cursor, keys = self.do("SCAN", cursor, "MATCH", pattern, "COUNT", "10000")
                    found += len(keys)
                    if cursor == b"0":
                        break
        self.do("SELECT", "0")
        return found

    def multiply(self, number: int) -> None:
        """Makes `number` messages with ids of their own of the one in Celery's default queue."""
        message: bytes = self.do("RPOP", "celery")
        ids = [message.split(mark, 1)[1].split(b'"', 2)[1] for mark in (b'"id":', b'"delivery_tag":')]
        pieces = message.replace(ids[1], b"\0").replace(ids[0], b"\1")
        for start in range(0, number, 1000):
            copies = []
            for _ in range(min(1000, number - start)):
                tag, name = (str(uuid.UUID(bytes=os.urandom(16))).encode() for _ in range(2))
                copies.append(pieces.replace(b"\0", tag).replace(b"\1", name))
            self.do("LPUSH", "celery", *copies)


def encoded(words: tuple[str | bytes, ...]) -> bytes:
    """A command as Redis reads it."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word.encode() if isinstance(word, str) else word
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


@contextmanager
def redis_server(scratch: Path) -> Iterator[Redis]:
    """Without persistence."""
    install("redis-server", "redis-server")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(scratch)]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port, server)
        yield Redis(port, server.pid)
    finally:
        server.terminate()
        server.wait()


class RabbitMQ:
    """The node of a run."""

    def __init__(self, url: str, pid: int, environment: dict[str, str]) -> None:
        self.url = url
        self.pid = pid
        self.environment = environment

    def cpu(self) -> float:
        """CPU of the node in seconds."""
        return processes.cpu_seconds(self.pid)

    def empty(self) -> None:
        """Deletes every queue: the systems declare them as they need them."""
        code = '[rabbit_amqqueue:delete(Q, false, false, <<"bench">>) || Q <- rabbit_amqqueue:list()], ok.'
        command = ["/usr/lib/rabbitmq/bin/rabbitmqctl", "--quiet", "eval", code]
        subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=60)


@contextmanager
def rabbitmq_server(scratch: Path) -> Iterator[RabbitMQ]:
    """A node of its own, with a name service of its own, bound to the loopback."""
    install("rabbitmq-server", "rabbitmq-server")
    home = scratch / "rabbitmq"
    home.mkdir(exist_ok=True)
    port, names = free_port(), free_port()
    environment = {
        **os.environ,
        "HOME": str(home),
        "RABBITMQ_NODENAME": f"bench{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "none.conf"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    with (home / "output").open("wb") as output:
        epmd = subprocess.Popen(["epmd", "-port", str(names), "-address", "127.0.0.1"], stdout=output, stderr=output)
        wait_for_port(names, epmd)
        command = ["/usr/lib/rabbitmq/bin/rabbitmq-server"]
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            wait_for_port(port, server)
            yield RabbitMQ(f"amqp://guest:guest@127.0.0.1:{port}//", server.pid, environment)
        finally:
            server.terminate()
            processes.end(server, 20)
            epmd.terminate()
            epmd.wait()
