"""`celeriac._core.Worker` with one child in this very process (solo), over every store."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from celeriac import _core
from celeriac.exceptions import ImproperlyConfigured, OperationalError

from .conftest import signal_once_told

ACCEPTED = {"acks_late": True, "rate_limit": None, "track_started": True, "ignore_result": False}


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"sqlite:///{tmp_path}/store.db"


def options(url: str, **changes: Any) -> dict[str, Any]:
    return {
        "broker_url": url,
        "result_backend": url,
        "transport_options": {},
        "node": "w@here",
        "queues": ["q"],
        "concurrency": 1,
        "prefetch_multiplier": 4,
        "tasks": {"t": ACCEPTED},
        "accept_content": ["application/json"],
        "lease_seconds": 5.0,
        "log_level": 20,
        **changes,
    }


class Solo:
    """A worker, and the child that it feeds, in one process."""

    def __init__(self, url: str, **changes: Any) -> None:
        ours, theirs = socket.socketpair()
        self.theirs = theirs
        self.worker = _core.Worker(options(url, child_fd=ours.detach(), **changes))
        self.seen: list[tuple[Any, ...]] = []

    def start(self) -> _core.Child:
        self.worker.start()
        child = _core.Child(self.theirs.detach())
        self.until("ready")
        return child

    def until(self, kind: str) -> tuple[Any, ...]:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for notice in self.seen:
                if notice[0] == kind:
                    return notice
            select.select([self.worker.fileno()], [], [], 1)
            self.seen += self.worker.notices()
        raise AssertionError(f"no notice {kind} among {self.seen}")

    def stop(self, child: _core.Child) -> tuple[Any, ...]:
        self.worker.stop("warm")
        assert child.receive(30) is None
        assert child.stopping
        stopped = self.until("stopped")
        assert self.worker.join(30)
        return stopped


def publication(task_id: str, task: str = "t") -> _core.Publication:
    headers = {"lang": "py", "task": task, "id": task_id, "retries": 0, "root_id": task_id, "parent_id": None}
    properties = {"content_type": "application/json", "content_encoding": "utf-8", "correlation_id": task_id}
    return _core.Publication(headers, properties, b"[[], {}, {}]", routing_key="q")


def test_tasks_travel_from_the_client_through_the_worker_and_back(url: str) -> None:
    client = _core.Client(url, url, {})
    client.publish([publication(f"id-{n}") for n in range(20)])
    solo = Solo(url)
    child = solo.start()

    for _ in range(20):
        execution = child.receive(30)
        assert execution is not None
        task_id = execution.headers["id"]
        record = _core.ResultRecord(task_id, "SUCCESS", json.dumps(task_id).encode(), "application/json")
        child.respond(execution.tag, "success", [record], [], repr(task_id), 0.001)

    ids = [f"id-{n}" for n in range(20)]
    for task_id in ids:
        assert [r.record for r in client.wait([task_id], 30)] == [json.dumps(task_id).encode()]
    assert solo.stop(child)[1] == 0
    stats = solo.worker.stats()
    assert stats["succeeded"] == 20
    assert stats["totals"] == {"t": 20}
    lines = [notice for notice in solo.seen if notice[0] == "log"]
    received = [line for line in lines if line[3] == "Task t[id-7] received"]
    assert len(received) == 1
    kind, level, logger, _, created, task_id, name = received[0]
    assert (kind, level, task_id, name) == ("log", 20, "id-7", "t")
    assert logger.startswith("celery.")
    assert abs(created - time.time()) < 300
    assert [row["ready"] + row["claimed"] for row in client.queues() if row["name"] == "q"] == [0]
    client.close()


def counts(client: _core.Client) -> tuple[int, int]:
    return next((row["ready"], row["claimed"]) for row in client.queues() if row["name"] == "q")


def test_what_was_not_begun_is_ready_again_after_a_stop(url: str) -> None:
    client = _core.Client(url, url, {})
    client.publish([publication(f"id-{n}") for n in range(5)])
    solo = Solo(url)
    child = solo.start()
    execution = child.receive(30)
    assert execution is not None
    solo.worker.stop("warm")
    deadline = time.monotonic() + 30
    while counts(client) != (4, 1) and time.monotonic() < deadline:
        pass
    child.respond(execution.tag, "success", [], [], "None", 0.001)

    assert solo.stop(child)[1] == 0

    assert counts(client) == (4, 0)
    client.close()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"concurency": 2}, "concurency"),
        ({"concurrency": "many"}, "concurrency"),
        ({"concurrency": 2}, "one task at a time"),
        ({"lease_seconds": -1.0}, "lease_seconds"),
        ({"queues": "q"}, "queues"),
        ({"node": None}, "node"),
        ({"broker_url": "no url"}, "broker_url"),
        ({"tasks": {"t": {"rate_limit": "often"}}}, "rate_limit.*task t"),
        ({"tasks": {"t": {"colour": "red"}}}, "colour"),
        ({"time_limit": 5.0}, "solo"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(changes: dict[str, Any], named: str) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    given = options("memory://x", child_fd=ours.detach()) | changes
    with pytest.raises(ImproperlyConfigured, match=named):
        _core.Worker(given)


def test_a_worker_with_nothing_to_run_tasks_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="fork_server_fd"):
        _core.Worker(options("memory://x"))


def test_a_broker_that_cannot_be_used_fails_the_start(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="kafka"):
        Solo("kafka://host")
    solo = Solo(f"sqlite:///{tmp_path}/no/x.db")
    with pytest.raises(OperationalError):
        solo.worker.start()
    solo.worker.stop("cold")
    assert solo.worker.join(30)
    assert solo.until("stopped")[1] == 1
    solo.theirs.close()


def test_a_worker_starts_once_and_stops_before_it_starts(url: str) -> None:
    solo = Solo(url)
    assert solo.worker.stats() == {}
    assert solo.worker.join(0)
    solo.worker.stop("warm")
    with pytest.raises(ValueError, match="lukewarm"):
        solo.worker.stop("lukewarm")

    solo.worker.start()

    child = _core.Child(solo.theirs.detach())
    assert child.receive(30) is None
    assert solo.until("stopped")[1] == 0
    assert solo.worker.join(30)
    with pytest.raises(RuntimeError, match="before"):
        solo.worker.start()


def test_signals_reach_the_main_thread_while_it_waits_for_notices(url: str) -> None:
    solo = Solo(url)
    child = solo.start()
    solo.worker.notices()

    class Caught(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        raise Caught

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        for _ in range(20):
            waits = signal_once_told(signal.SIGUSR1)
            with pytest.raises(Caught):
                _ = waits.set(), select.select([solo.worker.fileno()], [], [], 30)
    finally:
        signal.signal(signal.SIGUSR1, before)
    solo.stop(child)


def test_a_forked_process_may_not_use_the_worker(url: str) -> None:
    solo = Solo(url)
    pid = os.fork()
    if pid == 0:
        try:
            solo.worker.start()
        except RuntimeError:
            del solo
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    child = solo.start()
    solo.stop(child)
