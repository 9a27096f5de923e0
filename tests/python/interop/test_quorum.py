"""Quorum queues and native delayed delivery, whoever sends and whoever runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..servers.shared import Shared
from .battery import Place, Side

PAIRINGS = [("celery", "celery"), ("celery", "celeriac"), ("celeriac", "celery"), ("celeriac", "celeriac")]
SETTINGS = {
    "task_default_queue": "safe",
    "task_default_queue_type": "quorum",
    "task_default_exchange_type": "topic",
    "broker_transport_options": {"confirm_publish": True},
}
WAITS = [0.0, 2.5]


@pytest.mark.parametrize(("client", "worker"), PAIRINGS)
def test_tasks_on_a_quorum_queue_run_when_they_are_due(
    client: str, worker: str, shared: Shared, tmp_path: Path
) -> None:
    place = Place(shared.rabbitmq(), shared.redis(), SETTINGS)
    running = Side(worker, place, tmp_path).worker("-c", "2", app="interop_quorum")
    try:
        seen = Side(client, place, tmp_path).client(*map(str, WAITS), script="interop_quorum.py")
    finally:
        running.stop(hard=True)

    for wait, ran in zip(WAITS, seen, strict=True):
        assert ran["seconds"] >= wait
