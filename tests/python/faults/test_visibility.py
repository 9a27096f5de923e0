"""A task far longer than the visibility timeout runs once, although a worker of Celery looks for overdue ones."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import redis
from fleet import Fleet, until

SECONDS = 20
OPTIONS = {
    "visibility_timeout": 5,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "unacked_restore_limit": 100,
}


@pytest.mark.parametrize("places", ["redis"], indirect=True)
def test_twenty_seconds_with_a_timeout_of_five_run_once_beside_celery(
    server_fleet: Fleet, client_of: Callable[..., ModuleType], figure: Callable[[str], None]
) -> None:
    server_fleet.settings["broker_transport_options"] = OPTIONS
    server_fleet.env |= server_fleet.variables("celeriac")
    client = client_of(server_fleet)
    server_fleet.start("-c", "1", name="ours")
    result = client.long.delay(1, SECONDS)
    until(lambda: server_fleet.runs()[0][1] == 1, 10, "the task has begun")
    server_fleet.start("-c", "1", name="theirs", library="celery")

    with redis.Redis.from_url(server_fleet.broker) as raw:
        client.work.delay(2)
        until(lambda: 2 in server_fleet.runs()[1], 20, "theirs works")
        before = raw.info("commandstats")
        assert result.get(timeout=SECONDS + 20) == 1
        after = raw.info("commandstats")

    looked = sum(after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after if name in SCANS)
    begun, ended = server_fleet.runs()
    figure(
        f"{SECONDS} s with a visibility timeout of 5 s: ran {begun[1]} time(s); looked for overdue ones {looked} times"
    )
    assert looked >= 5
    assert (begun[1], ended[1]) == (1, 1)


#: How Celery asks for what is overdue.
SCANS = {"cmdstat_zrange", "cmdstat_zrevrangebyscore", "cmdstat_zrangebyscore"}
