"""RabbitMQ is stopped, or killed, and started again under load: the workers go on by themselves."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import ModuleType

import pytest
from fleet import Fleet, until
from load import Load

from ..servers.rabbitmq_server import RabbitServer
from ..servers.shared import Shared

SLOTS = 4
RESTARTS = 2


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

    for restart in range(RESTARTS):
        load.reach((restart + 1) / (RESTARTS + 2))
        before = load.stored()
        server.stop()
        server.start()
        load.risk(before)
        load.resumed(f"restart {restart + 1}")

    figure(f"rabbitmq, {RESTARTS} restarts{', mixed fleet' if mixed else ''}: {load.finish()}")
    assert worker.poll() is None


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_rabbitmq_is_killed(
    kind: str,
    own_rabbitmq: Callable[..., RabbitServer],
    shared: Shared,
    new_fleet: Callable[..., Fleet],
    client_of: Callable[..., ModuleType],
    figure: Callable[[str], None],
) -> None:
    server = own_rabbitmq()
    fleet = new_fleet(server.url(), shared.redis(), task_default_queue_type=kind)
    load = Load(fleet, client_of(fleet))
    worker = fleet.start("-c", str(SLOTS), name="ours")
    load.reach(0.5)
    before = load.stored()
    left = load.tasks - len(before)
    load.reach(0.55)
    # The tool takes seconds, and the node counts what a quorum queue has every five.
    worker.send_signal(signal.SIGSTOP)

    def kept() -> int:
        rows = server.control("list_queues", "name", "type", "messages").splitlines()
        queue_type, messages = next(row.split("\t")[1:] for row in rows if row.startswith("celery\t"))
        assert queue_type == kind
        return int(messages)

    until(lambda: kept() <= left, 20, "what was stored is acknowledged")
    server.stop(hard=True)
    worker.send_signal(signal.SIGCONT)
    server.start()
    # A quorum queue writes acknowledgements down before it goes on. A classic one keeps them in memory for a while:
    # killed, it delivers again what was done long ago.
    load.resumed("restart")
    load.risk(set() if kind == "classic" else before)

    figure(f"rabbitmq killed, {kind} queue, {left} tasks to go: {load.finish()}")
    assert worker.poll() is None
