"""Keeps one server for all processes of a test run: `python -m ...keeper KIND INFO PID`.

1. Starts the server in a temporary folder and says in the file INFO where it is.
2. Waits for the process PID, the one that controls the test run, to end: by itself or killed.
3. Ends the server and removes its folder.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from .postgres_server import PostgresServer
from .rabbitmq_server import RabbitServer
from .redis_server import RedisServer

#: One for each fixture of a run that asks for a place of its own.
RABBIT_HOSTS = 240


def keep(kind: str, info: Path, pid: int) -> None:
    """Runs the server for as long as that process lives."""
    watched = os.pidfd_open(pid)
    folder = Path(tempfile.mkdtemp(prefix=f"celeriac-{kind}-"))
    server = _made(kind, folder)
    try:
        try:
            server.start()
            told = {"port": server.port, "folder": str(folder)}
        except Exception as exc:
            told = {"error": f"{type(exc).__name__}: {exc}"}
        part = info.with_suffix(".part")
        part.write_text(json.dumps(told))
        part.rename(info)
        select.select([watched], [], [])
    finally:
        # Nobody waits for what it would write down.
        with suppress(Exception):
            server.stop(hard=True)
        shutil.rmtree(folder, ignore_errors=True)


def _made(kind: str, folder: Path) -> Any:
    if kind == "redis":
        return RedisServer(folder)
    return PostgresServer(folder) if kind == "postgres" else RabbitServer(folder, hosts=RABBIT_HOSTS)


if __name__ == "__main__":
    keep(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
