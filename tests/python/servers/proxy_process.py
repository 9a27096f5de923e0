"""The process of a test proxy: `python proxy_process.py PORT`. Commands are JSON lines; it ends with its input."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

CHUNK = 65_536
#: How long an answer may take that is awaited only to be kept.
PATIENCE = 2.0


@dataclass
class Trap:
    """Cuts a connection when a pattern passes."""

    direction: str
    pattern: bytes
    then: str
    skip: int
    times: int


@dataclass(eq=False)
class Link:
    """One connection: the client's side and the server's."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    #: The end of what passed in each direction: a pattern may come in two pieces.
    tails: dict[str, bytes] = field(default_factory=lambda: {"up": b"", "down": b""})
    #: The answer to what was forwarded is kept, and the connection cut.
    muted: bool = False
    #: Forwards nothing any more, and stays open.
    stranded: bool = False
    closed: bool = False


class Proxy:
    """Listens, forwards, and does what it is told."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.listener: asyncio.Server | None = None
        self.links: set[Link] = set()
        self.traps: list[Trap] = []
        self.limits: dict[str, int] = {}
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.opened = self.cuts = 0
        self.bytes = {"up": 0, "down": 0}

    async def listen(self) -> None:
        self.listener = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = self.listener.sockets[0].getsockname()[1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        await self.flowing.wait()
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            reset(writer)
            return
        link = Link(writer, server_writer)
        self.links.add(link)
        await asyncio.gather(
            self.forward(link, reader, server_writer, "up"), self.forward(link, server_reader, writer, "down")
        )
        self.links.discard(link)

    async def forward(self, link: Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK):
                await self.flowing.wait()
                if link.muted and way == "down":
                    self.cut(link)
                if link.closed:
                    return
                if link.stranded:
                    continue
                if not self.passes(link, data, way):
                    self.cut(link)
                    return
                sink.write(data)
                await sink.drain()
                self.bytes[way] += len(data)
        if not link.closed:
            # An orderly end is passed on; the other direction goes on until it ends too.
            with suppress(OSError, RuntimeError):
                sink.write_eof()

    def passes(self, link: Link, data: bytes, way: str) -> bool:
        """Whether the data is forwarded. What is armed is looked at."""
        seen = link.tails[way] + data
        for trap in self.traps:
            if trap.direction != way:
                continue
            found = seen.count(trap.pattern) - link.tails[way].count(trap.pattern)
            if found <= 0:
                continue
            trap.skip -= found
            if trap.skip >= 0:
                continue
            trap.skip = 0
            trap.times -= 1
            if trap.times == 0:
                self.traps.remove(trap)
            if trap.then == "before":
                return False
            link.muted = True
            asyncio.get_running_loop().call_later(PATIENCE, self.cut, link)
            break
        longest = max((len(trap.pattern) for trap in self.traps), default=1)
        link.tails[way] = seen[-(longest - 1) :] if longest > 1 else b""
        if way in self.limits:
            self.limits[way] -= len(data)
            if self.limits[way] <= 0:
                del self.limits[way]
                return False
        return True

    def cut(self, link: Link) -> None:
        if not link.closed:
            link.closed = True
            self.cuts += 1
            reset(link.client)
            reset(link.server)
            self.links.discard(link)

    def cut_all(self) -> int:
        links = list(self.links)
        for link in links:
            self.cut(link)
        return len(links)

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        match command.pop("do"):
            case "cut":
                return {"cut": self.cut_all()}
            case "arm":
                command["pattern"] = base64.b64decode(command["pattern"])
                self.traps.append(Trap(**command))
            case "cut_after":
                self.limits[command["direction"]] = command["size"]
            case "disarm":
                self.traps.clear()
                self.limits.clear()
            case "stall":
                self.flowing.clear()
            case "resume":
                self.flowing.set()
            case "strand":
                for link in self.links:
                    link.stranded = True
                return {"stranded": len(self.links)}
            case "refuse":
                if self.listener is not None:
                    self.listener.close()
                    self.listener = None
                self.cut_all()
            case "accept":
                await self.listen()
            case "counts":
                armed = sum(trap.times for trap in self.traps) + len(self.limits)
                return {"opened": self.opened, "open": len(self.links), "cut": self.cuts, "armed": armed, **self.bytes}
        return {}


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection as a crash does: with a reset, nothing more is sent."""
    with suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def main() -> None:
    proxy = Proxy(int(sys.argv[1]))
    await proxy.listen()
    print(json.dumps({"port": proxy.port}), flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        print(json.dumps(await proxy.obey(json.loads(line))), flush=True)
    os._exit(0)  # nothing is worth closing in order


if __name__ == "__main__":
    asyncio.run(main())
