"""The urgent ones first: 0 on Redis, 9 on RabbitMQ, whoever sends and whoever runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..servers.run import until
from ..servers.shared import Shared
from .battery import Place, Side

PAIRINGS = [("celery", "celery"), ("celery", "celeriac"), ("celeriac", "celery"), ("celeriac", "celeriac")]


@pytest.mark.parametrize(("client", "worker"), PAIRINGS)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_urgent_tasks_run_first(broker: str, client: str, worker: str, shared: Shared, tmp_path: Path) -> None:
    urgent_first = [0, 3, 6, 9] if broker == "redis" else [9, 6, 3, 0]
    place = Place(
        shared.redis() if broker == "redis" else shared.rabbitmq(),
        shared.redis(),
        {"worker_prefetch_multiplier": 1} | ({"task_queue_max_priority": 10} if broker == "rabbitmq" else {}),
    )
    Side(client, place, tmp_path).client(*map(str, reversed(urgent_first)), script="interop_priorities.py")

    running = Side(worker, place, tmp_path).worker("-c", "1")
    notes = tmp_path / "note-priorities"
    try:
        until(lambda: notes.exists() and len(notes.read_text().splitlines()) == 8, 60, "all have run")
    finally:
        running.stop(hard=True)

    ran = [json.loads(line) for line in notes.read_text().splitlines()]
    assert ran == [priority for priority in urgent_first for _ in range(2)]
