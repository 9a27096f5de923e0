"""A private PostgreSQL, on a free port and in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from .run import end, free_port, tied, until

#: It refuses to run as root; Debian's package brings this user.
USER = "postgres"


class PostgresServer:
    """One server; anybody on this host may be its superuser."""

    def __init__(self, folder: Path) -> None:
        # Its user has to reach it: not below a folder that is root's alone.
        self.data = Path(tempfile.mkdtemp(prefix="celeriac-pg-"))
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "postgres.log"
        self.port = 0
        self.process: subprocess.Popen[Any] | None = None
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        assert found, "PostgreSQL is not installed: make servers"
        self.programs = found[-1].parent
        self.user: dict[str, Any] = {"user": USER, "group": USER} if os.geteuid() == 0 else {}

    def start(self) -> PostgresServer:
        """Starts it, on the port that it had, and waits until it answers."""
        if not (self.data / "PG_VERSION").exists():
            if self.user:
                shutil.chown(self.data, USER, USER)
            make = [str(self.programs / "initdb"), "-D", str(self.data), "-U", USER, "--auth=trust", "-N", "-E", "UTF8"]
            done = subprocess.run(make, cwd="/", capture_output=True, text=True, check=False, **self.user)
            assert done.returncode == 0, done.stderr
        for _ in range(5):
            self.port = self.port or free_port()
            if self._started():
                return self
            self.port = 0  # somebody was quicker
        raise AssertionError(self.log.read_text())

    def _started(self) -> bool:
        options = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        options += ["-c", "fsync=off", "-c", "max_connections=200"]
        with self.log.open("ab") as log:
            self.process = tied(
                [str(self.programs / "postgres"), "-D", str(self.data), *options],
                cwd="/",
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.user,
            )
        process = self.process
        until(lambda: self._answers() or process.poll() is not None, 30, "PostgreSQL answers")
        return process.poll() is None

    def _answers(self) -> bool:
        # It listens before it lets anybody in: what it says in the log is what counts.
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return self.log.read_text(errors="replace").rfind("ready to accept connections") >= 0
        return False

    def stop(self, *, hard: bool = False) -> None:
        """Ends it, and removes what it kept."""
        if self.process is not None and self.process.poll() is None and not hard:
            self.process.send_signal(signal.SIGINT)  # its quick way, which waits for no client
        end(self.process, hard=hard)
        self.process = None
        shutil.rmtree(self.data, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        """As SQLAlchemy takes it."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"
