"""Checkpoints: a long task goes on from where it was, after a kill, a deploy, a retry; and nothing is left when it has ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.exceptions import ImproperlyConfigured

from .conftest import Project, wait_until

TASKS = """
    @app.task(name="steps", bind=True, acks_late=True, reject_on_worker_lost=True)
    def steps(self, wait_at=None):
        for step in range(self.last_checkpoint(0), 20):
            mark("steps", f"{step} ")
            self.checkpoint(step + 1, flush=True)
            if step == wait_at and not (here / "go").exists():
                mark("pid", str(os.getpid()))
                mark("waits")
                time.sleep(600)
        return self.last_checkpoint()

    @app.task(name="asteps", bind=True, acks_late=True)
    async def asteps(self):
        for step in range(self.last_checkpoint(0), 5):
            await asyncio.sleep(0)
            self.checkpoint(step + 1)
        return self.last_checkpoint()

    @app.task(name="again", bind=True, max_retries=3)
    def again(self):
        found = self.last_checkpoint({"rows": 0})
        for row in range(100):
            found = {"rows": found["rows"] + 1}
            self.checkpoint(found)
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return found["rows"]

    @app.task(name="fails", bind=True)
    def fails(self):
        self.checkpoint([1], flush=True)
        raise ValueError("no")

    @app.task(name="badly", bind=True)
    def badly(self):
        told = []
        for state in (object(), "x" * (1 << 20)):
            try:
                self.checkpoint(state)
            except Exception as exc:
                told.append(type(exc).__name__)
        return told
"""
ALL = "".join(f"{step} " for step in range(20))


@pytest.fixture(params=["sqlite", "redis", "rabbitmq"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """A project on each broker; results of RabbitMQ's are on Redis."""
    match request.param:
        case "sqlite":
            made = Project(tmp_path)
        case "redis":
            made = Project(tmp_path, request.getfixturevalue("redis_url"))
        case _:
            made = Project(tmp_path, request.getfixturevalue("rabbitmq_url"), request.getfixturevalue("redis_url"))
    yield made
    made.close()


def kept(project: Project, result: Any) -> bytes | None:
    found: bytes | None = project.client.client.read_value(f"checkpoint:{result.id}")
    return found


def test_a_task_whose_child_is_killed_does_each_step_once(place: Project) -> None:
    place.write(TASKS)
    place.start("-c", "1")
    result = place.send("steps", 9)
    place.wait_for_mark("waits")
    assert kept(place, result) == b"10"

    (place.folder / "go").touch()
    os.kill(int(place.marks("pid")), signal.SIGKILL)

    assert result.get(timeout=30) == 20
    assert place.marks("steps") == ALL
    wait_until(lambda: kept(place, result) is None, "the checkpoint is removed")


def test_a_task_whose_worker_is_killed_does_each_step_once(place: Project) -> None:
    place.write(TASKS, worker_lease_seconds=2)
    worker = place.start("-c", "1", "-n", "same@host")
    result = place.send("steps", 9)
    place.wait_for_mark("waits")

    (place.folder / "go").touch()
    worker.kill()
    place.start("-c", "1", "-n", "same@host")

    assert result.get(timeout=40) == 20
    assert place.marks("steps") == ALL


def test_a_deploy_goes_on_where_it_was(project: Project) -> None:
    project.write(TASKS, worker_drain_seconds=0.1)
    worker = project.start("-c", "1")
    result = project.send("steps", 4)
    project.wait_for_mark("waits")

    (project.folder / "go").touch()
    assert worker.stop() == 0
    project.start("-c", "1")

    assert result.get(timeout=30) == 20
    assert project.marks("steps") == ALL


def test_a_retry_finds_the_last_state_though_few_are_written(project: Project) -> None:
    project.write(TASKS)
    project.start("-c", "1")

    result = project.send("again")

    assert result.get(timeout=20) == 300
    wait_until(lambda: kept(project, result) is None, "the checkpoint is removed")


def test_a_failure_leaves_none_and_a_state_that_cannot_be_kept_is_told(project: Project) -> None:
    project.write(TASKS)
    project.start("-P", "asyncio", "-c", "2")

    failed, told, awaited = project.send("fails"), project.send("badly"), project.send("asteps")

    with pytest.raises(ValueError, match="no"):
        failed.get(timeout=20)
    wait_until(lambda: kept(project, failed) is None, "the checkpoint is removed")
    assert told.get(timeout=20) == ["EncodeError", "ValueError"]
    assert awaited.get(timeout=20) == 5


def test_without_a_backend_that_keeps_values_the_error_says_so(tmp_path: Path, rabbitmq_url: str) -> None:
    made = Project(tmp_path, rabbitmq_url, "rpc://")
    try:
        made.write(TASKS)
        made.start("-c", "1")
        with pytest.raises(ImproperlyConfigured, match="checkpoints need a result backend that keeps values"):
            made.send("again").get(timeout=20)
    finally:
        made.close()


def test_a_checkpoint_expires(project: Project) -> None:
    project.write(TASKS, checkpoint_expires=0.5)
    project.start("-c", "1")
    result = project.send("steps", 3)
    project.wait_for_mark("waits")
    began = time.monotonic()
    wait_until(lambda: kept(project, result) is None, "it has expired")
    assert time.monotonic() - began < 25
