"""Workers of both libraries share a queue: each task runs once, and clients of both read every result."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ..servers.run import until
from ..servers.shared import Shared
from .battery import Place, Side, rabbitmq_place, redis_place

TASKS = 2_000


def notes(folder: Path) -> list[tuple[int, str]]:
    """Which task was run by a worker of which library."""
    path = folder / "note-flood"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("make", [redis_place, rabbitmq_place], ids=["redis", "rabbitmq"])
def test_two_thousand_tasks_run_once_each(
    make: Callable[[Shared], Place], shared: Shared, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    place = make(shared)
    sides = {library: Side(library, place, tmp_path) for library in ("celery", "celeriac")}
    workers = [side.worker("-c", "2", name=library) for library, side in sides.items()]
    try:
        half = str(TASKS // 2)
        ids = sides["celery"].client("send", "0", half, script="interop_flood.py")
        ids += sides["celeriac"].client("send", half, str(TASKS), script="interop_flood.py")
        (tmp_path / "ids").write_text(json.dumps(ids))

        until(lambda: len({number for number, _ in notes(tmp_path)}) == TASKS, 60, "every task has run")
        read = {
            library: side.client("read", str(tmp_path / "ids"), script="interop_flood.py")
            for library, side in sides.items()
        }
    finally:
        for worker in workers:
            worker.stop(hard=True)

    ran = notes(tmp_path)
    by = Counter(library for _, library in ran)
    figure(f"{make.__name__.split('_')[0]}, mixed workers: {TASKS} tasks, run {len(ran)} times: {dict(by)}")
    assert len(ran) == TASKS
    assert min(by["celery"], by["celeriac"]) > 0
    assert read["celery"] == read["celeriac"] == list(range(TASKS))
