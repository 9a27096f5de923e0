"""Two workers are restarted in turn while tasks keep coming: a deploy, again and again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from fleet import Fleet, until

#: How long it goes on; a minute is what was promised, the suite takes less.
SECONDS = float(os.environ.get("ROLLING_SECONDS", "20"))
#: At least so many, however slow the machine.
RESTARTS = 6
#: No message waits for more than this many others before it is sent.
AHEAD = 300


def roll(fleet: Fleet, client: ModuleType, figure: Callable[[str], None]) -> None:
    """Restarts worker after worker under load, and counts."""
    workers: dict[str, Any] = {name: fleet.start("-c", "2", name=name) for name in ("left", "right")}
    results: list[Any] = []
    restarts = 0
    end = time.monotonic() + SECONDS

    def feed() -> None:
        """Keeps work waiting, so that every stop finds some claimed."""
        numbers = range(len(results), len(fleet.runs()[1]) + AHEAD)
        results.extend(client.work.delay(number) for number in numbers)

    def turned_over(goal: int) -> bool:
        feed()
        return len(fleet.runs()[1]) >= goal

    feed()
    while time.monotonic() < end or restarts < RESTARTS:
        for name in list(workers):
            goal = len(fleet.runs()[1]) + 100
            until(lambda goal=goal: turned_over(goal), 60, f"{goal} tasks done before the next restart")
            worker = workers[name]
            worker.send_signal(signal.SIGTERM)
            until(lambda worker=worker: turned_over(10**9) or worker.poll() is not None, 30, f"{name} has ended")
            assert worker.poll() == 0, worker.output.read_text()
            workers[name] = fleet.start("-c", "2", name=name)
            restarts += 1

    until(lambda: len(fleet.runs()[1]) >= len(results), 120, "every task done")
    assert [result.get(timeout=30) for result in results] == list(range(len(results)))
    begun, ended = fleet.runs()
    again = sum(begun.values()) - len(begun)
    figure(
        f"{len(results)} tasks, {restarts} restarts in {SECONDS:g} s: lost {len(results) - len(ended)}, begun again {again}"
    )
    assert again == 0
    assert sum(ended.values()) == len(results)
    logs = "".join(worker.output.read_text() for worker in fleet.workers)
    assert "lost its process" not in logs
    assert "were given back" not in logs, "a stopped worker's tasks are handed back by itself, not found by others"
    assert client.app.client.dead_letters() == []


def test_nothing_is_lost_or_repeated_on_a_file(
    fleet: Fleet, fault_app: ModuleType, figure: Callable[[str], None]
) -> None:
    fleet.settings["worker_max_crashes"] = 1
    fleet.env.update(fleet.variables("celeriac"))
    roll(fleet, fault_app, figure)


@pytest.mark.parametrize("places", ["redis", "rabbitmq"], indirect=True)
def test_nothing_is_lost_or_repeated_on_a_server(
    server_fleet: Fleet, client_of: Callable[..., ModuleType], figure: Callable[[str], None]
) -> None:
    # A message that is counted as crashed once is dead: no attempt may be counted.
    server_fleet.settings["worker_max_crashes"] = 1
    server_fleet.env.update(server_fleet.variables("celeriac"))
    roll(server_fleet, client_of(server_fleet), figure)
