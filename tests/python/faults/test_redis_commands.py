"""What a task costs Redis, counted by Redis."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import redis
from fleet import Fleet, until

from ..servers.redis_server import RedisServer

TASKS = 5_000


def commands(raw: redis.Redis) -> int:
    """How many it has carried out, those of scripts included."""
    return sum(stat["calls"] for stat in raw.info("commandstats").values())


@pytest.mark.parametrize(("task", "limit"), [("noop_without_result", 2), ("noop", 4)])
def test_a_backlog_costs_few_commands(
    task: str,
    limit: int,
    client_of: Callable[..., ModuleType],
    own_redis: Callable[..., RedisServer],
    new_fleet: Callable[..., Fleet],
    figure: Callable[[str], None],
) -> None:
    server = own_redis()
    fleet = new_fleet(server.url(0), server.url(0))
    client = client_of(fleet)
    for _ in range(TASKS):
        getattr(client, task).delay()
    with redis.Redis.from_url(fleet.broker) as raw:
        before = commands(raw)
        fleet.start("-c", "2")
        asked = 0

        def drained() -> bool:
            nonlocal asked
            asked += 2
            return raw.llen("celery") == raw.hlen("unacked") == 0

        until(drained, 60, "the queue is empty")
        used = commands(raw) - before - asked

    figure(f"Redis commands per task, {task}, backlog of {TASKS:,}: {used / TASKS:.2f}")
    assert used / TASKS <= limit
