"""Workers and children are killed under load, on Redis and on RabbitMQ: nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import ModuleType

import pytest
from fleet import Fleet, until
from load import Load

KILLS = 8
SLOTS = 4
#: Celery's worker looks often for what others have left, and so do ours.
QUICK = {"visibility_timeout": 6, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}


@pytest.mark.parametrize("places", ["redis", "rabbitmq"], indirect=True)
def test_tasks_survive_random_kills(
    server_fleet: Fleet, client_of: Callable[..., ModuleType], figure: Callable[[str], None]
) -> None:
    load = Load(server_fleet, client_of(server_fleet))
    worker = server_fleet.start("-c", str(SLOTS))

    for kill in range(KILLS):
        load.reach((kill + 1) / (KILLS + 2))
        time.sleep(load.chance.uniform(0, 0.02))  # the moment of the kill is what is random, nothing waits on it
        if kill % 2:
            server_fleet.kill_all(worker)
            load.risk(load.stored())
            worker = server_fleet.start("-c", str(SLOTS))
            load.resumed("a new worker")
        else:
            os.kill(load.chance.choice(until(lambda w=worker: server_fleet.pool(w), 10, "children")), signal.SIGKILL)
            load.at_risk += 1

    broker = server_fleet.broker.partition(":")[0]
    figure(f"{broker}, {KILLS} kills of workers and children: {load.finish()}")


@pytest.mark.parametrize("places", ["redis", "rabbitmq"], indirect=True)
def test_tasks_survive_kills_in_a_mixed_fleet(
    server_fleet: Fleet, client_of: Callable[..., ModuleType], figure: Callable[[str], None]
) -> None:
    if server_fleet.broker.startswith("redis"):
        server_fleet.settings["broker_transport_options"] = QUICK
        server_fleet.env |= server_fleet.variables("celeriac")
    load = Load(server_fleet, client_of(server_fleet))
    ours = server_fleet.start("-c", "2", name="ours")
    theirs = server_fleet.start("-c", "2", name="theirs", library="celery")

    load.reach(0.2)
    os.kill(load.chance.choice(server_fleet.pool(ours)), signal.SIGKILL)
    load.at_risk += 1
    load.reach(0.4)
    server_fleet.kill_all(ours)
    load.risk(load.stored())
    load.resumed("ours was killed")
    server_fleet.start("-c", "2", name="ours")
    load.reach(0.6)
    server_fleet.kill_all(theirs)
    load.risk(load.stored())
    load.resumed("theirs was killed")

    broker = server_fleet.broker.partition(":")[0]
    theirs_may_lose = 1 if broker == "redis" else 0
    figure(f"{broker}, mixed fleet, kills on both sides: {load.finish(may_vanish=theirs_may_lose)}")
