"""RabbitMQ is killed and started again under load: nothing is lost."""

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
