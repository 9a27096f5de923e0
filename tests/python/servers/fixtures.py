"""Servers for tests. `tests/python/conftest.py` offers these fixtures to all of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .proxy import Proxy
from .rabbitmq_server import RabbitServer
from .redis_server import RedisServer
from .shared import Shared


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """The servers of the whole run, and places in them."""
    base = tmp_path_factory.getbasetemp()
    return Shared(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture
def redis_url(shared: Shared) -> str:
    """An empty database of the shared Redis."""
    return shared.redis()


@pytest.fixture
def rabbitmq_url(shared: Shared) -> str:
    """An empty virtual host of the shared RabbitMQ."""
    return shared.rabbitmq()


@pytest.fixture
def postgres_url(shared: Shared) -> str:
    """An empty database of the shared PostgreSQL."""
    return shared.postgres()


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder with a short name: paths of sockets and Erlang's are limited."""
    folder = Path(tempfile.mkdtemp(prefix="celeriac-own-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _own(kind: Callable[..., Any], folder: Path) -> Iterator[Callable[..., Any]]:
    started: list[Any] = []

    def start(*settings: str) -> Any:
        server = kind(folder / str(len(started)), *settings)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop(hard=True)


@pytest.fixture
def own_redis(server_folder: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers that the test may kill and restart."""
    yield from _own(RedisServer, server_folder / "redis")


@pytest.fixture
def own_rabbitmq(server_folder: Path) -> Iterator[Callable[..., RabbitServer]]:
    """Starts nodes that the test may kill and restart."""
    yield from _own(RabbitServer, server_folder / "rabbitmq")


@pytest.fixture
def proxy() -> Iterator[Callable[[int], Proxy]]:
    """Puts a proxy that misbehaves on command before a port."""
    started: list[Proxy] = []

    def start(port: int) -> Proxy:
        started.append(Proxy(port))
        return started[-1]

    yield start
    for one in started:
        one.close()
