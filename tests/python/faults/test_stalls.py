"""Connections that are open and carry nothing: the worker finds out, and goes on by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType

import pytest
from fleet import Fleet
from load import Load

from ..servers.proxy import Proxy, port_of, through

SLOTS = 4
STALL_SECONDS = 10
#: Claimed and not begun.
HELD = 2 * SLOTS


@pytest.mark.parametrize("places", ["redis", "rabbitmq"], indirect=True)
@pytest.mark.parametrize("how", ["everything for a while", "what is open now, for good"])
def test_work_goes_on_after_a_stall(
    how: str,
    places: tuple[str, str],
    server_fleet: Fleet,
    client_of: Callable[..., ModuleType],
    proxy: Callable[[int], Proxy],
    figure: Callable[[str], None],
) -> None:
    between = proxy(port_of(places[0]))
    kind = "redis" if places[0].startswith("redis") else "rabbitmq"
    detour = through(places[0], between)
    server_fleet.settings["broker_heartbeat"] = 4
    server_fleet.env |= server_fleet.variables("celeriac")
    load = Load(server_fleet, client_of(server_fleet))
    worker = server_fleet.start("-c", str(SLOTS), broker=detour, backend=detour if kind == "redis" else None)
    load.reach(0.3)
    before = load.stored()

    if how == "everything for a while":
        between.stall()
        time.sleep(STALL_SECONDS)
        between.resume()
    else:
        assert between.strand() > 0

    load.resumed(how, seconds=45)
    load.risk(before)
    load.at_risk += HELD
    figure(f"{kind}, stalled, {how}: {load.finish()}")
    assert worker.poll() is None
