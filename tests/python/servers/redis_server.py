"""A private Redis, on a free port and in a folder of its own."""

from __future__ import annotations

import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from .run import end, free_port, tied, until

DATABASES = 512


class RedisServer:
    """One server; what it was started with outlives a restart."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.port = 0
        self.process: subprocess.Popen[Any] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> RedisServer:
        """Starts it, on the port that it had, and waits until it answers."""
        for _ in range(5):
            self.port = self.port or free_port()
            if self._started():
                return self
            self.port = 0  # somebody was quicker
        raise AssertionError((self.folder / "redis.log").read_text())

    def _started(self) -> bool:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir"]
        command += [str(self.folder), "--databases", str(DATABASES), *self.options]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = tied(command, stdout=log, stderr=log, start_new_session=True)
        process = self.process
        until(lambda: self._answers() or process.poll() is not None, 20, "Redis answers")
        return process.poll() is None

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as server:
            server.sendall(b"PING\r\n")
            return server.recv(64).startswith(b"+PONG")  # LOADING while it reads its file
        return False

    def stop(self, *, hard: bool = False) -> None:
        """Ends it; `hard` is SIGKILL."""
        end(self.process, hard=hard)
        self.process = None

    def url(self, database: int = 0) -> str:
        """As brokers and backends take it."""
        return f"redis://127.0.0.1:{self.port}/{database}"
