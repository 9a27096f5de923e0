"""Many tasks, some failing, some tried again, with lost connections: the supervisor's memory stays what it was.

`SOAK_TASKS=200000` is the long run; the suite takes a tenth of it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from types import ModuleType

import pytest
from fleet import Fleet, rss_kib, until

from ..servers.proxy import Proxy, port_of, through

TASKS = int(os.environ.get("SOAK_TASKS", "20000"))
CUTS = 8
#: What the allocator may keep more of after so many more tasks.
ALLOWED_KIB = 6 * 1024


@pytest.mark.parametrize("places", ["redis"], indirect=True)
def test_the_supervisor_does_not_grow(
    places: tuple[str, str],
    server_fleet: Fleet,
    client_of: Callable[..., ModuleType],
    proxy: Callable[[int], Proxy],
    figure: Callable[[str], None],
) -> None:
    between = proxy(port_of(places[0]))
    detour = through(places[0], between)
    client = client_of(server_fleet)
    worker = server_fleet.start("-c", "2", broker=detour, backend=detour)
    chance = random.Random(7)

    def work_off(count: int) -> None:
        """Sends some thousands at a time, cuts connections meanwhile, and waits for all."""
        for first in range(0, count, 2_000):
            kinds = chance.choices(["noop", "noop_without_result", "fails", "tried_again"], [6, 6, 1, 1], k=2_000)
            client.app.send_many(getattr(client, kind).si() for kind in kinds)
            if first * CUTS // count != (first + 2_000) * CUTS // count:
                between.cut()
            until(idle, 120, f"{first + 2_000} done")

    def idle() -> bool:
        queue = {q["name"]: q for q in client.app.client.queues()}.get("celery", {})
        return not (queue.get("ready") or queue.get("claimed") or queue.get("parked"))

    work_off(TASKS // 4)
    before = rss_kib(worker.pid)
    work_off(TASKS - TASKS // 4)
    after = rss_kib(worker.pid)

    figure(
        f"{TASKS} tasks, {CUTS + CUTS} cuts: supervisor {before / 1024:.1f} MB after a quarter, {after / 1024:.1f} MB at the end"
    )
    assert worker.poll() is None
    assert client.app.client.dead_letters() == []
    assert after - before < ALLOWED_KIB
