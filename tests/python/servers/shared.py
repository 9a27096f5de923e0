"""One Redis and one RabbitMQ for a whole test run, however many processes run tests; a place in them for each test.

The first process that needs a server starts its keeper, under a file lock; the others read where it is.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .keeper import RABBIT_HOSTS
from .rabbitmq_server import PASSWORD
from .redis_server import DATABASES
from .run import until

ROOT = Path(__file__).parents[3]
POSTGRES_DATABASES = 100
#: Keepers that this process has started: they outlive it, nobody waits for them.
_KEEPERS: list[subprocess.Popen[bytes]] = []


class Shared:
    """What the processes of a run share, in a folder that all of them see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def redis(self) -> str:
        """URL of a database that nobody else uses."""
        number = self._next("redis", DATABASES)
        return f"redis://127.0.0.1:{self._server('redis')['port']}/{number}"

    def rabbitmq(self) -> str:
        """URL of a virtual host that nobody else uses."""
        number = self._next("rabbitmq", RABBIT_HOSTS)
        return f"amqp://guest:{PASSWORD}@127.0.0.1:{self._server('rabbitmq')['port']}/v{number}"

    def postgres(self) -> str:
        """URL of a database that nobody else uses, as SQLAlchemy takes it; needs psycopg."""
        import psycopg

        number = self._next("postgres", POSTGRES_DATABASES)
        where = f"postgres@127.0.0.1:{self._server('postgres')['port']}"
        with psycopg.connect(f"postgresql://{where}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE d{number}")
        return f"postgresql+psycopg://{where}/d{number}"

    def _server(self, kind: str) -> dict[str, Any]:
        info = self.folder / f"{kind}.json"
        with self._lock(kind):
            if not info.exists():
                controller = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
                command = [sys.executable, "-m", "tests.python.servers.keeper", kind, str(info), str(controller)]
                with (self.folder / f"{kind}.keeper.log").open("wb") as log:
                    # Its own session: Ctrl-C ends the tests, and then it.
                    keeper = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
                _KEEPERS.append(keeper)
                until(info.exists, 90, f"{kind} is up, see {self.folder}/{kind}.keeper.log")
        told: dict[str, Any] = json.loads(info.read_text())
        if "error" in told:
            raise AssertionError(told["error"])
        return told

    def _next(self, kind: str, limit: int) -> int:
        with self._lock(kind):
            counter = self.folder / f"{kind}.count"
            number = int(counter.read_text()) if counter.exists() else 0
            counter.write_text(str(number + 1))
        assert number < limit, f"more than {limit} tests want a place in {kind}"
        return number

    @contextmanager
    def _lock(self, kind: str) -> Iterator[None]:
        with (self.folder / f"{kind}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
