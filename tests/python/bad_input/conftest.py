"""A real worker and a real client for tests of what must not go well."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celeriac._core import Publication

from ..integration.conftest import Project, project, wait_until

__all__ = ["JSON", "TASKS", "Bench", "bench", "project", "wait_until"]

TASKS = """
    class Unspeakable:
        pass

    @app.task(name="add")
    def add(x, y):
        return x + y

    @app.task(name="unspeakable")
    def unspeakable():
        return Unspeakable()

    @app.task(name="large")
    def large(size):
        return "x" * size

    @app.task(name="deep")
    def deep(depth):
        value = []
        for _ in range(depth):
            value = [value]
        return value
    """
JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
#: Stands for what is nobody's business: no line of the log may have it.
SECRET = "hunter2"


class Bench:
    """A project with a worker, and messages made by hand."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.worker: Any = None

    def start(self, *options: str, **settings: Any) -> Any:
        self.project.write(TASKS, **settings)
        self.worker = self.project.start("-c", "1", *options)
        return self.worker

    def publish(self, body: bytes, headers: dict[str, Any], properties: dict[str, Any] | None = None) -> None:
        given = JSON if properties is None else properties
        self.project.client.client.publish([Publication(headers, given, body, routing_key="celery")])

    def publish_json(self, body: Any, **headers: Any) -> None:
        self.publish(json.dumps(body).encode(), {"task": "add", "id": "bad-1", **headers})

    @property
    def dead(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.project.client.client.dead_letters()
        return found

    def works(self) -> None:
        """A good task is run, and nothing waits any more."""
        assert self.project.send("add", 1, 1).get(timeout=30) == 2
        wait_until(lambda: self.project.queue()["ready"] == self.project.queue()["claimed"] == 0, "the queue is empty")
        assert self.worker.process.poll() is None

    def is_calm(self) -> None:
        """The log says what is wrong without a traceback, and without content."""
        assert "Traceback" not in self.worker.log
        assert SECRET not in self.worker.log


@pytest.fixture
def bench(project: Project) -> Bench:
    return Bench(project)
