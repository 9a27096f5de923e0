"""Redis is killed and started again under load: the workers go on by themselves."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from fleet import Fleet
from load import Load

from ..servers.redis_server import RedisServer

SLOTS = 4
RESTARTS = 2
AOF = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.mark.parametrize("mixed", [False, True], ids=["ours", "mixed fleet"])
def test_redis_that_writes_everything_down(
    mixed: bool,
    own_redis: Callable[..., RedisServer],
    new_fleet: Callable[..., Fleet],
    client_of: Callable[..., ModuleType],
    figure: Callable[[str], None],
) -> None:
    server = own_redis(*AOF)
    options = {"visibility_timeout": 6, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    fleet = new_fleet(
        server.url(0),
        server.url(1),
        broker_transport_options=options if mixed else {},
        result_backend_always_retry=mixed,
    )
    load = Load(fleet, client_of(fleet))
    worker = fleet.start("-c", str(SLOTS), name="ours")
    if mixed:
        fleet.start("-c", "2", name="theirs", library="celery")

    for restart in range(RESTARTS):
        load.reach((restart + 1) / (RESTARTS + 2))
        before = load.stored()
        server.stop(hard=True)
        server.start()
        load.risk(before)
        load.resumed(f"restart {restart + 1}")

    # Celery's worker may have popped a message that it could not write down any more: see `finish`.
    told = load.finish(may_vanish=RESTARTS if mixed else 0)
    figure(f"redis, {RESTARTS} restarts{', mixed fleet' if mixed else ''}: {told}")
    assert worker.poll() is None
