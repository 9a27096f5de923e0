"""Servers of the applications here, and a client that reads streams of events."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery

from ..servers.run import end, free_port, tied, until

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PATIENCE = 60


class Site:
    """A server process."""

    def __init__(self, folder: Path, broker: str, backend: str, command: list[str], **environment: str) -> None:
        self.port = free_port()
        self.log = folder / "site.log"
        clean = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CELERY", "CELERIAC", "FLASK", "APP"))
        }
        self.environment = {
            **clean,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(HERE)]),
            "BROKER": broker,
            "RESULT_BACKEND": backend,
            **environment,
        }
        with self.log.open("wb") as sink:
            self.process: subprocess.Popen[Any] = tied(
                [sys.executable, *(part.format(port=self.port) for part in command)],
                cwd=folder,
                env=self.environment,
                stdout=sink,
                stderr=sink,
            )
        until(self._answers, PATIENCE, f"the site answers: {self.log}")
        self.celery = Celery("client", broker=broker, backend=backend, set_as_current=False)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            self.get("/cost")
        except OSError:
            return False
        return True

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as response:
            return json.loads(response.read())

    def close(self) -> None:
        self.celery.close()
        end(self.process, hard=True)


@pytest.fixture
def start_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Starts a server on a broker and a result backend."""
    started: list[Site] = []

    def start(broker: str, backend: str, command: list[str], **environment: str) -> Site:
        started.append(Site(tmp_path, broker, backend, command, **environment))
        return started[-1]

    yield start
    for site in started:
        site.close()


@dataclass
class Event:
    """One event of a stream."""

    name: str = "message"
    id: str = ""
    data: Any = None


@dataclass
class Reader:
    """Reads one stream, as a browser does."""

    port: int
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 0
    head: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    comments: int = 0
    retry: int = 0
    ended: bool = False

    async def run(self) -> Reader:
        """Reads to the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        more = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        writer.write(f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{more}\r\n".encode())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            self.status = int(first.split()[1])
            self.head = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            if self.status == 200:
                await self._read_events(reader)
            self.ended = True
        finally:
            writer.close()
        return self

    async def _read_events(self, reader: asyncio.StreamReader) -> None:
        chunked = self.head.get("transfer-encoding") == "chunked"
        rest = b""
        while True:
            if chunked:
                size = int((await reader.readline()).strip() or b"0", 16)
                piece = (await reader.readexactly(size + 2))[:-2]
            else:
                piece = await reader.read(65536)
            if not piece:
                return
            *blocks, rest = (rest + piece).split(b"\n\n")
            for block in blocks:
                self._take(block.decode())

    def _take(self, block: str) -> None:
        event = Event()
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not name:
                self.comments += 1
            elif name == "retry":
                self.retry = int(value)
            elif name == "event":
                event.name = value
            elif name == "id":
                event.id = value
            elif name == "data":
                event.data = json.loads(value)
        if event.data is not None:
            self.events.append(event)

    @property
    def states(self) -> list[Any]:
        """States, or what progress was done, in order."""
        return [
            event.data["progress"]["done"] if event.data["progress"] else event.data["state"]
            for event in self.events
            if event.name == "message"
        ]


async def wait_until(condition: Callable[[], Any], what: str) -> None:
    """Waits while the loop goes on."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {PATIENCE} s: {what}"
        await asyncio.sleep(0.01)
