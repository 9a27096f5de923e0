"""Messages that are not tasks: refused, and the worker goes on."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac._core import Publication

from .conftest import wait_until

TASKS = """
    @app.task(name="add")
    def add(x, y):
        return x + y
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "1")


def headers(**more: Any) -> dict[str, Any]:
    return {"task": "add", "id": "bad-1", "root_id": "bad-1", "retries": 0, **more}


JSON = {"content_type": "application/json", "content_encoding": "utf-8"}

BAD: dict[str, tuple[dict[str, Any], dict[str, Any], bytes]] = {
    "not JSON": (headers(), JSON, b"garbage"),
    "two elements": (headers(), JSON, b"[[1, 1], {}]"),
    "kwargs null": (headers(), JSON, b"[[1, 1], null, {}]"),
    "args an object": (headers(), JSON, b'[{"a": 1}, {}, {}]'),
    "pickle": (headers(), {"content_type": "application/x-python-serialize", "content_encoding": "binary"}, b"x"),
    "no headers": ({}, JSON, b"[[1, 1], {}, {}]"),
    "eta is no date": (headers(eta="tomorrow"), JSON, b"[[1, 1], {}, {}]"),
    "deep": (headers(), JSON, b"[[" + b"[" * 5000 + b"]" * 5000 + b"], {}, {}]"),
    "a bomb": (headers(compression="application/x-gzip"), JSON, b"not compressed at all"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_message_is_refused_and_the_worker_goes_on(case: str, project: Any, worker: Any) -> None:
    head, properties, body = BAD[case]
    project.client.client.publish([Publication(head, properties, body, routing_key="celery")])

    assert project.send("add", 1, 1).get(timeout=30) == 2
    wait_until(lambda: project.queue()["ready"] == project.queue()["claimed"] == 0, "the bad message is gone")
    assert "Traceback" not in worker.log
    assert worker.process.poll() is None
