"""Connections are cut at any byte by a proxy, and those of clients while they publish."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from fleet import Fleet
from load import Load

from ..servers.proxy import Proxy, port_of, through

SLOTS = 4
CUTS = 6
#: Claimed and not begun at a cut.
HELD = 2 * SLOTS
TASK = b"fault_app.work"


@pytest.mark.parametrize("places", ["redis", "rabbitmq"], indirect=True)
def test_clients_survive_cuts_between_publish_and_reply(
    places: tuple[str, str],
    server_fleet: Fleet,
    client_of: Callable[..., ModuleType],
    proxy: Callable[[int], Proxy],
    figure: Callable[[str], None],
) -> None:
    between = proxy(port_of(places[0]))
    client = client_of(server_fleet, FAULT_BROKER=through(places[0], between))
    kind = "redis" if places[0].startswith("redis") else "rabbitmq"
    between.arm("up", TASK, then="reply", skip=150, times=1)
    between.arm("up", TASK, then="before", skip=400, times=1)
    between.arm("up", TASK, then="reply", skip=800, times=1)
    load = Load(server_fleet, client)
    cuts = between.counts()["cut"]
    assert cuts == 3
    # What was cut is sent again, and whoever was cut off cannot know that it had arrived.
    load.at_risk = cuts
    server_fleet.start("-c", str(SLOTS))

    figure(f"{kind}, {cuts} cuts between publish and reply: {load.finish()}")


@pytest.mark.parametrize("places", ["redis", "rabbitmq"], indirect=True)
def test_workers_survive_cuts_at_any_byte(
    places: tuple[str, str],
    server_fleet: Fleet,
    client_of: Callable[..., ModuleType],
    proxy: Callable[[int], Proxy],
    figure: Callable[[str], None],
) -> None:
    between = proxy(port_of(places[0]))
    kind = "redis" if places[0].startswith("redis") else "rabbitmq"
    detour = through(places[0], between)
    load = Load(server_fleet, client_of(server_fleet))
    load.at_risk = CUTS * HELD
    server_fleet.start("-c", str(SLOTS), broker=detour, backend=detour if kind == "redis" else None)

    for cut in range(CUTS):
        load.reach((cut + 1) / (CUTS + 2))
        # A worker sends RabbitMQ little more than acknowledgements, one for many tasks.
        most = 20_000 if (way := load.chance.choice(["up", "down"])) == "down" or kind == "redis" else 300
        between.cut_after(way, load.chance.randrange(1, most))
        load.broken(f"cut {cut + 1}", lambda: not between.counts()["armed"] or load.done() == load.tasks)

    figure(f"{kind}, {CUTS} cuts anywhere: {load.finish()}")
    assert between.counts()["cut"] >= CUTS - 1
