"""The solo pool: tasks run in the worker's own process."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

TASKS = """
    @app.task(name="pid")
    def pid():
        return os.getpid()

    @app.task(name="boom")
    def boom():
        raise ValueError("x")

    @app.task(name="aio")
    async def aio():
        await asyncio.sleep(0.01)
        return "async"

    @app.task(name="wait")
    def wait():
        mark("waiting")
        while not (here / "go").exists():
            time.sleep(0.01)
        return "done"
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-P", "solo")


def test_tasks_run_in_the_workers_process(project: Any, worker: Any) -> None:
    assert project.send("pid").get(timeout=30) == worker.pid
    with pytest.raises(ValueError, match="x"):
        project.send("boom").get(timeout=30)
    assert project.send("aio").get(timeout=30) == "async"


def test_a_warm_stop_lets_the_task_end(project: Any, worker: Any) -> None:
    result = project.send("wait")
    project.wait_for_mark("waiting")

    os.kill(worker.pid, signal.SIGTERM)
    worker.wait_for("Warm shutdown")
    (project.folder / "go").touch()

    assert worker.wait() == 0
    assert result.get(timeout=30) == "done"
