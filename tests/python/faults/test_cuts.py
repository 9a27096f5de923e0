"""Connections are cut at random points by a proxy: between a request and its answer, above all."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from fleet import Fleet
from load import Load

from ..servers.proxy import Proxy, port_of, through

SLOTS = 4
CUTS = 6
#: Claimed and not begun at a cut.
HELD = 2 * SLOTS
TASK = b"fault_app.work"
#: `basic.ack` as a frame has it.
ACK = b"\x00\x3c\x00\x50"
RESULT = b"celery-task-meta-"


#: What is cut, by broker: direction, what passes, and whether it still passes.
POINTS: dict[str, dict[str, tuple[Any, bytes, str]]] = {
    "redis": {
        "claim and reply": ("down", TASK, "before"),
        "commit and reply": ("up", RESULT, "reply"),
        "before the commit": ("up", RESULT, "before"),
    },
    "rabbitmq": {
        "delivery": ("down", TASK, "before"),
        "before the acknowledgement": ("up", ACK, "before"),
    },
}


@pytest.mark.parametrize(
    ("places", "point"),
    [(broker, point) for broker, points in POINTS.items() for point in points],
    indirect=["places"],
)
def test_workers_survive_cuts(
    point: str,
    places: tuple[str, str],
    server_fleet: Fleet,
    client_of: Callable[..., ModuleType],
    proxy: Callable[[int], Proxy],
    figure: Callable[[str], None],
) -> None:
    kind = "redis" if places[0].startswith("redis") else "rabbitmq"
    between = proxy(port_of(places[0]))
    detour = through(places[0], between)
    load = Load(server_fleet, client_of(server_fleet))
    load.at_risk = CUTS * HELD
    backend = detour if kind == "redis" else None
    worker = server_fleet.start("-c", str(SLOTS), broker=detour, backend=backend)

    direction, pattern, then = POINTS[kind][point]
    for cut in range(CUTS):
        load.reach((cut + 1) / (CUTS + 2))
        cuts = between.counts()["cut"]
        between.arm(direction, pattern, then=then, skip=load.chance.randrange(5))
        load.broken(f"cut {cut + 1}", lambda cuts=cuts: between.counts()["cut"] > cuts or load.done() == load.tasks)

    figure(f"{kind}, {CUTS} cuts, {point}: {load.finish()}")
    assert between.counts()["cut"] >= CUTS - 1
    assert worker.poll() is None
