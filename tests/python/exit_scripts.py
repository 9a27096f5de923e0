"""One short program: uses the engine's client, and ends at once. `test_core_exit.py` runs it many times.

Usage: exit_scripts.py MODE BROKER_URL. The modes differ in what is still under way at the end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

from celeriac import _core


class Face:
    """The least that an asyncio face of the client needs."""

    def __init__(self) -> None:
        self.completions = _core.Completions()
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(self.completions.fileno(), self.drain)

    def drain(self) -> None:
        for token, result in self.completions.drain():
            future = self.waiting.pop(token)
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def token(self) -> int:
        token = len(self.waiting) + 1
        self.waiting[token] = self.loop.create_future()
        return token


def publication(number: int) -> _core.Publication:
    properties = {"content_type": "application/json", "content_encoding": "utf-8"}
    return _core.Publication({"task": "t", "id": str(number)}, properties, b"[[], {}, {}]", routing_key="q")


async def publish_and_wait(client: _core.Client) -> None:
    """Awaits a publish and a result, as the last thing the program does."""
    face = Face()
    token = face.token()
    waiting = face.waiting[token]
    client.wait_later(["a"], 30, face.completions, token)
    token = face.token()
    publishing = face.waiting[token]
    client.publish_later([publication(1)], None, None, False, face.completions, token)
    await publishing
    client.store([_core.ResultRecord("a", "SUCCESS", b"{}", "application/json")])
    await waiting


async def leave_pending(client: _core.Client) -> None:
    """Ends the loop while calls are under way."""
    face = Face()
    for number in range(20):
        client.wait_later([f"never-{number}"], None, face.completions, face.token())
        client.publish_later([publication(number)], None, None, False, face.completions, face.token())
    await asyncio.sleep(0)


def wait_in_threads(client: _core.Client) -> None:
    """Leaves daemon threads inside the engine: at the end they must not come back to Python too late."""
    started = threading.Barrier(5)

    def wait() -> None:
        started.wait()
        client.wait(["never"])

    for _ in range(4):
        threading.Thread(target=wait, daemon=True).start()
    started.wait()


def publish_in_threads(client: _core.Client) -> None:
    """Leaves daemon threads that call the engine again and again."""
    started = threading.Barrier(5)

    def publish() -> None:
        started.wait()
        while True:
            client.publish([publication(1)])

    for _ in range(4):
        threading.Thread(target=publish, daemon=True).start()
    started.wait()


def main(mode: str, url: str) -> None:
    client = _core.Client(url, url, {})
    client.publish([publication(0)])
    match mode:
        case "sync":
            pass
        case "awaited":
            asyncio.run(publish_and_wait(client))
        case "pending":
            asyncio.run(leave_pending(client))
        case "waiting-threads":
            wait_in_threads(client)
        case "publishing-threads":
            publish_in_threads(client)
        case "forked":
            asyncio.run(leave_pending(client))
            if os.fork() == 0:
                sys.exit(0)
            os.wait()
        case _:
            raise SystemExit(f"no mode {mode}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
