"""RabbitMQ is stopped and started again under load: the workers go on by themselves."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from fleet import Fleet
from load import Load

from ..servers.rabbitmq_server import RabbitServer
from ..servers.shared import Shared

SLOTS = 4


@pytest.mark.parametrize("mixed", [False, True], ids=["ours", "mixed fleet"])
def test_rabbitmq_with_durable_queues(
    mixed: bool,
    own_rabbitmq: Callable[..., RabbitServer],
    shared: Shared,
    new_fleet: Callable[..., Fleet],
    client_of: Callable[..., ModuleType],
    figure: Callable[[str], None],
) -> None:
    server = own_rabbitmq()
    fleet = new_fleet(server.url(), shared.redis())
    load = Load(fleet, client_of(fleet))
    worker = fleet.start("-c", str(SLOTS), name="ours")
    if mixed:
        fleet.start("-c", "2", name="theirs", library="celery")

    restarts = 1 if mixed else 2
    for restart in range(restarts):
        load.reach((restart + 1) / (restarts + 2))
        before = load.stored()
        server.stop()
        server.start()
        load.risk(before)
        load.resumed(f"restart {restart + 1}")

    figure(f"rabbitmq, {restarts} restart(s){', mixed fleet' if mixed else ''}: {load.finish()}")
    assert worker.poll() is None
