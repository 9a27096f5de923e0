"""Many open streams in one process: each gets every state and the end, over one subscription of the store.

`CELERIAC_STREAMS=1000` is the full size.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import pytest
import redis

from celeriac.result.record import build_record

from .conftest import Reader, Site, wait_until

STREAMS = int(os.environ.get("CELERIAC_STREAMS", "100"))
ASGI = ["-m", "uvicorn", "asgi_site:site", "--port", "{port}", "--log-level", "warning", "--backlog", "2000"]
SITES = {
    "asgi": ASGI,
    "flask threads": ["-m", "flask_site", "threads", "{port}"],
    "flask gevent": ["-m", "flask_site", "gevent", "{port}"],
}


async def follow_all(site: Site, subscribers: Callable[[], int], figure: Callable[[str], None], kind: str) -> None:
    ids = [f"task-{number}" for number in range(STREAMS)]
    store = site.celery.client.store

    def store_all(state: str, value: object) -> None:
        store([build_record(site.celery, task_id, state, value) for task_id in ids])

    await asyncio.to_thread(store_all, "PENDING", None)
    before = await asyncio.to_thread(site.get, "/cost")
    readers = [Reader(site.port, f"/tasks/{task_id}/events") for task_id in ids]
    running = [asyncio.ensure_future(reader.run()) for reader in readers]
    started = time.monotonic()
    for number, (state, value) in enumerate(
        [("", None), ("PROGRESS", {"done": 1}), ("PROGRESS", {"done": 2}), ("SUCCESS", "done")]
    ):
        if state:
            await asyncio.to_thread(store_all, state, value)
        if state != "SUCCESS":
            await wait_until(
                lambda number=number: all(len(reader.states) > number for reader in readers), f"all have state {number}"
            )
        if number == 1:
            during = await asyncio.to_thread(site.get, "/cost")
            assert await asyncio.to_thread(subscribers) == 1
    await asyncio.wait_for(asyncio.gather(*running), 60)
    took = time.monotonic() - started
    after = await asyncio.to_thread(site.get, "/cost")

    assert [reader.states for reader in readers] == [["PENDING", 1, 2, "SUCCESS"]] * STREAMS
    assert all(reader.events[-1].name == "end" and reader.ended for reader in readers)
    figure(
        f"{STREAMS} streams, {kind}: {(during['kib'] - before['kib']) / STREAMS:.0f} KiB each, "
        f"{(after['cpu'] - before['cpu']) / STREAMS / 5 * 1e6:.0f} µs CPU for each event, {during['threads']} threads, "
        f"{took:.1f} s for {STREAMS} x 5 events"
    )


@pytest.mark.parametrize("kind", SITES)
def test_every_stream_gets_every_state_over_one_subscription(
    kind: str, start_site: Callable[..., Site], redis_url: str, figure: Callable[[str], None]
) -> None:
    # So short that many a wait ends without news.
    site = start_site(redis_url, redis_url, SITES[kind], HEARTBEAT="0.05" if STREAMS < 1000 else "2")
    server = redis.Redis.from_url(redis_url)
    database = int(redis_url.rpartition("/")[2])

    def subscribers() -> int:
        listed = [one for one in server.client_list() if int(one["db"]) == database]
        assert len(listed) < 10, listed
        return sum(int(one["sub"]) > 0 for one in listed)

    asyncio.run(follow_all(site, subscribers, figure, kind))

    # Those whose streams have ended are not listened for any more.
    deadline = time.monotonic() + 20
    while subscribed := [one for one in server.client_list() if int(one["db"]) == database and int(one["sub"]) > 0]:
        assert time.monotonic() < deadline, subscribed
        time.sleep(0.02)
