"""A task that holds the interpreter's lock in C stops nothing but its own process."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from fleet import Fleet, until

from celeriac.exceptions import TimeLimitExceeded

LEASE = 3.0


@pytest.fixture
def stuck(server_fleet: Fleet, client_of: Callable[..., ModuleType]) -> Any:
    server_fleet.settings["worker_lease_seconds"] = LEASE
    server_fleet.env.update(server_fleet.variables("celeriac"))
    client = client_of(server_fleet)
    worker = server_fleet.start("-c", "2")
    client.in_c.delay(0)
    until(lambda: server_fleet.runs()[0][0] == 1, 20, "the task holds the lock")
    return server_fleet, client, worker


@pytest.mark.parametrize("places", ["redis", "rabbitmq"], indirect=True)
def test_it_stops_neither_the_lease_nor_the_other_tasks(stuck: Any) -> None:
    fleet, client, _ = stuck
    # Another worker takes what a lease that ended gives back.
    fleet.start("-c", "1", name="other")
    end = time.monotonic() + 3 * LEASE

    number = 1
    while time.monotonic() < end:
        assert client.work.delay(number).get(timeout=30) == number
        number += 1

    assert fleet.runs()[0][0] == 1
    assert client.app.client.dead_letters() == []


@pytest.mark.parametrize("places", ["redis"], indirect=True)
def test_it_stops_no_hard_limit_and_no_shutdown(stuck: Any) -> None:
    _, client, worker = stuck

    limited = client.in_c.apply_async((1,), time_limit=1)
    with pytest.raises(TimeLimitExceeded):
        limited.get(timeout=30)
    assert client.work.delay(2).get(timeout=30) == 2

    worker.terminate()
    until(lambda: b"Warm shutdown" in worker.output.read_bytes(), 20, "it has heard")
    # A later one is cold; the child is killed and its task handed back.
    until(lambda: worker.poll() is not None or worker.terminate(), 30, "it has ended")
    assert worker.returncode == 1
    queue = {q["name"]: q for q in client.app.client.queues()}["celery"]
    assert (queue["ready"], queue["claimed"], queue["dead"]) == (1, 0, 0)


@pytest.mark.parametrize("places", ["redis"], indirect=True)
def test_it_stops_no_ping(stuck: Any) -> None:
    _, client, _ = stuck
    if not hasattr(client.app.control, "ping"):
        pytest.skip("nobody can ask yet")

    for _ in range(3):
        [answer] = client.app.control.ping(timeout=10, limit=1)
        assert list(answer.values()) == [{"ok": "pong"}]
