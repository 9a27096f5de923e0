"""Several queues, several kinds of tasks: who waits for whom, counted in tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fleet import Fleet, until

from ..servers.shared import Shared

#: More than a worker holds of a queue at any time.
BACKLOG = 20_000
#: What a worker may have claimed of the busy queue before the other one had anything.
HELD = 700


@pytest.fixture(params=["file", "redis", "rabbitmq"])
def fair(
    request: pytest.FixtureRequest, tmp_path: Path, shared: Shared, client_of: Callable[..., ModuleType]
) -> Iterator[Callable[..., tuple[Fleet, ModuleType]]]:
    """Makes a fleet on each kind of broker, with settings."""
    fleets: list[Fleet] = []

    def make(**settings: Any) -> tuple[Fleet, ModuleType]:
        places: tuple[str, ...] = ()
        if request.param == "redis":
            places = (shared.redis(),)
        elif request.param == "rabbitmq":
            places = (shared.rabbitmq(), shared.redis())
        fleets.append(Fleet(tmp_path, *places, **settings))
        return fleets[-1], client_of(fleets[-1])

    yield make
    for fleet in fleets:
        fleet.close()


def send(client: ModuleType, task: str, numbers: range, queue: str) -> None:
    """Sends many at once."""
    calls = [getattr(client, task).s(number).set(queue=queue) for number in numbers]
    client.app.send_many(calls)


def begun(fleet: Fleet) -> list[int]:
    """Numbers in the order in which they began."""
    lines = (line.split() for line in fleet.log.read_text().splitlines())
    return [int(number) for what, number, *_ in lines if what == "begin"]


def test_a_busy_queue_does_not_starve_another(
    fair: Callable[..., tuple[Fleet, ModuleType]], figure: Callable[[str], None]
) -> None:
    fleet, client = fair()
    send(client, "note", range(BACKLOG), "busy")
    fleet.start("-c", "1", "-Q", "busy,quiet")
    until(lambda: len(begun(fleet)) > 1_000, 60, "the backlog is worked off")

    before = len(begun(fleet))
    send(client, "note", range(BACKLOG, BACKLOG + 100), "quiet")
    sending = len(begun(fleet)) - before
    until(lambda: sum(number >= BACKLOG for number in begun(fleet)) == 100, 60, "the quiet queue is served")

    order = begun(fleet)
    first = next(place for place, number in enumerate(order) if number >= BACKLOG)
    last = max(place for place, number in enumerate(order) if number >= BACKLOG)
    between = last - first + 1 - 100
    figure(f"{first - before} at the most before the first of the quiet queue, {between} of the busy one among its 100")
    assert last < BACKLOG, "the backlog was over too soon to tell"
    assert first - before <= HELD + sending
    assert between <= 150, "one of each in turn"
    assert [number for number in order if number >= BACKLOG] == list(range(BACKLOG, BACKLOG + 100))


@pytest.mark.parametrize("strategy", ["priority", "sorted"])
def test_a_strict_order_empties_the_first_queue_first(
    strategy: str, tmp_path: Path, shared: Shared, client_of: Callable[..., ModuleType]
) -> None:
    for kind in ("file", "redis"):
        folder = tmp_path / kind
        folder.mkdir()
        places = (shared.redis(),) if kind == "redis" else ()
        fleet = Fleet(folder, *places, broker_transport_options={"queue_order_strategy": strategy})
        try:
            client = client_of(fleet)
            send(client, "note", range(200), "b")
            send(client, "note", range(200, 400), "a")

            fleet.start("-c", "1", "-Q", "b,a")
            until(lambda fleet=fleet: len(begun(fleet)) == 400, 60, "all are done")

            first, second = range(200), range(200, 400)
            wanted = [*first, *second] if strategy == "priority" else [*second, *first]
            assert begun(fleet) == wanted, kind
        finally:
            fleet.close()


def test_nothing_waits_behind_a_long_task_while_a_process_is_idle(
    fair: Callable[..., tuple[Fleet, ModuleType]],
) -> None:
    fleet, client = fair()
    # The task is known as short: many are given to one child at a time.
    send(client, "maybe_long", range(1, 2_000), "celery")
    fleet.start("-c", "2")
    until(lambda: len(begun(fleet)) == 1_999, 60, "it is known to be short")

    # Zero waits until it is told to end; what was given to its child goes to the other one.
    send(client, "maybe_long", range(1), "celery")
    send(client, "maybe_long", range(2_000, 3_000), "celery")

    until(lambda: len(begun(fleet)) == 3_000, 60, "everything but the long one is done")
    assert 0 not in fleet.runs()[1]
    (fleet.folder / "go").touch()
    until(lambda: 0 in fleet.runs()[1], 30, "the long one has ended")
    assert max(fleet.runs()[0].values()) == 1


def test_long_tasks_are_claimed_for_free_processes_only(fair: Callable[..., tuple[Fleet, ModuleType]]) -> None:
    fleet, client = fair()
    for number in range(10):
        client.until_told.delay(number)
    fleet.start("-c", "2")
    until(lambda: len(begun(fleet)) == 2, 30, "both processes have one")

    fleet.start("-c", "2", name="w2")
    until(lambda: len(begun(fleet)) == 4, 30, "the other worker gets what the first cannot run")

    queue = {q["name"]: q for q in client.app.client.queues()}["celery"]
    assert queue["ready"] == 6
    (fleet.folder / "go").touch()
    until(lambda: len(fleet.runs()[1]) == 10, 30, "all done")


def test_a_multiplier_is_kept_to(fair: Callable[..., tuple[Fleet, ModuleType]]) -> None:
    fleet, client = fair(worker_prefetch_multiplier=3)
    for number in range(20):
        client.until_told.delay(number)
    fleet.start("-c", "2")
    until(lambda: len(begun(fleet)) == 2, 30, "both processes have one")

    def ready() -> int:
        return int({q["name"]: q for q in client.app.client.queues()}["celery"]["ready"])

    until(lambda: ready() == 14, 30, "six are held: three for each process")
    (fleet.folder / "go").touch()
    until(lambda: len(fleet.runs()[1]) == 20, 30, "all done")


def test_a_rate_limited_task_holds_nothing_up(fair: Callable[..., tuple[Fleet, ModuleType]]) -> None:
    fleet, client = fair()
    send(client, "slowed", range(3_000), "celery")
    send(client, "note", range(3_000, 3_500), "celery")

    fleet.start("-c", "1")
    until(lambda: sum(number >= 3_000 for number in begun(fleet)) == 500, 60, "the others have run")

    assert sum(number < 3_000 for number in begun(fleet)) < 100
