"""Flower, unmodified, shows and controls our workers, through its HTTP API."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..servers.run import end, free_port, tied, until
from ..servers.shared import Shared
from .battery import Place, Side, Worker, rabbitmq_place, redis_place

PLACES: dict[str, Callable[[Shared], Place]] = {"redis": redis_place, "rabbitmq": rabbitmq_place}
NODE = "events@host"
PATIENCE = 60


class Flower:
    """A Flower process, and a worker of ours that it watches."""

    def __init__(self, place: Place, folder: Path) -> None:
        side = Side("celery", place, folder)
        self.port = free_port()
        self.output = folder / "flower.log"
        options = [f"--port={self.port}", "--address=127.0.0.1", "--inspect_timeout=5000"]
        with self.output.open("wb") as sink:
            self.process = tied(
                [side.python, "-m", "celery", "-A", "events_app", "flower", *options],
                env={**side.environment, "FLOWER_UNAUTHENTICATED_API": "1"},
                cwd=folder,
                stdout=sink,
                stderr=sink,
            )
        until(self._answers, PATIENCE, f"Flower answers, see {self.output}")

    def _answers(self) -> bool:
        try:
            self.ask("/api/workers?status=true")
        except OSError:
            assert self.process.poll() is None, self.output.read_text()
            return False
        return True

    def ask(self, path: str, data: dict[str, Any] | None = None, *, form: bool = False) -> Any:
        """GET, or POST with data as JSON or as a form; the JSON of the answer."""
        body = None
        if data is not None:
            body = (urllib.parse.urlencode(data) if form else json.dumps(data)).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", body, timeout=30) as answer:
            return json.load(answer)

    def task(self, task_id: str) -> dict[str, Any]:
        """What it knows of a task; nothing when it has not heard of it."""
        try:
            found: dict[str, Any] = self.ask(f"/api/task/info/{task_id}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return {}
        return found

    def until_state(self, task_id: str, state: str) -> dict[str, Any]:
        until(lambda: self.task(task_id).get("state") == state, PATIENCE, f"{task_id} in {state}")
        return self.task(task_id)


@pytest.fixture(params=list(PLACES))
def watched(request: pytest.FixtureRequest, shared: Shared, tmp_path: Path) -> Iterator[tuple[Flower, Worker, Place]]:
    place = PLACES[request.param](shared)
    flower = Flower(place, tmp_path)
    worker = None
    try:
        worker = Side("celeriac", place, tmp_path).worker("-c", "2", "-E", name="events", app="events_app")
        until(lambda: flower.ask("/api/workers?status=true").get(NODE), PATIENCE, f"{NODE} in Flower")
        yield flower, worker, place
    finally:
        if worker is not None and worker.process.poll() is None:
            worker.stop(hard=True)
        end(flower.process, hard=True)


def test_flower_shows_workers_and_tasks(watched: tuple[Flower, Worker, Place]) -> None:
    flower, worker, _place = watched

    added = flower.ask("/api/task/async-apply/events.add", {"args": [2, 3]})["task-id"]
    failed = flower.ask("/api/task/async-apply/events.boom", {"args": []})["task-id"]
    again = flower.ask("/api/task/send-task/events.again", {"args": []})["task-id"]

    task = flower.until_state(added, "SUCCESS")
    assert (task["name"], task["args"], task["result"], task["worker"]) == ("events.add", "[2, 3]", "5", NODE)
    assert task["received"] <= task["started"] <= task["succeeded"]
    task = flower.until_state(failed, "FAILURE")
    assert task["exception"] == "ValueError('bad value', 42)"
    assert "ValueError: ('bad value', 42)" in task["traceback"]
    assert flower.until_state(again, "SUCCESS")["retries"] == 1
    assert set(flower.ask("/api/tasks?state=SUCCESS")) == {added, again}
    assert set(flower.ask(f"/api/tasks?workername={NODE}")) == {added, failed, again}
    assert set(flower.ask("/api/task/types")["task-types"]) == {"events.add", "events.again", "events.boom"}
    assert flower.ask(f"/api/task/result/{added}")["result"] == 5

    worker.stop()
    until(lambda: not flower.ask("/api/workers?status=true").get(NODE), PATIENCE, "the worker said goodbye")


def test_flower_revokes_a_task(watched: tuple[Flower, Worker, Place]) -> None:
    flower, worker, _place = watched
    task_id = flower.ask("/api/task/async-apply/events.add", {"args": [1, 1], "countdown": 3})["task-id"]

    flower.ask(f"/api/task/revoke/{task_id}?terminate=false", {})
    until(lambda: f"Tasks flagged as revoked: {task_id}" in worker.log, PATIENCE, "the worker heard it")

    task = flower.until_state(task_id, "REVOKED")
    assert task["started"] is None


def test_flower_controls_a_worker(watched: tuple[Flower, Worker, Place]) -> None:
    flower, worker, _place = watched
    info = flower.ask(f"/api/workers?refresh=true&workername={NODE}")[NODE]
    assert info["stats"]["pid"] == worker.pid
    assert "events.add" in info["registered"]
    assert [queue["name"] for queue in info["active_queues"]] == ["celery"]

    def processes() -> int:
        found = flower.ask(f"/api/workers?refresh=true&workername={NODE}")[NODE]
        return len(found["stats"]["pool"]["processes"])

    # A worker is ready, and answers, before its processes are made.
    until(lambda: processes() == 2, PATIENCE, "two processes")
    assert "Growing" in flower.ask(f"/api/worker/pool/grow/{NODE}?n=1", {})["message"]
    until(lambda: processes() == 3, PATIENCE, "three processes")
    assert "Shrinking" in flower.ask(f"/api/worker/pool/shrink/{NODE}?n=1", {})["message"]
    limited = flower.ask("/api/task/rate-limit/events.add", {"workername": NODE, "ratelimit": "10/s"}, form=True)
    assert limited["message"] == "new rate limit set successfully"
    timed = flower.ask("/api/task/timeout/events.add", {"workername": NODE, "soft": "30", "hard": "60"}, form=True)
    assert timed["message"] == "time limits set successfully"
    flower.ask(f"/api/worker/queue/add-consumer/{NODE}?queue=more", {})
    again = flower.ask(f"/api/workers?refresh=true&workername={NODE}")[NODE]
    assert {queue["name"] for queue in again["active_queues"]} == {"celery", "more"}

    flower.ask(f"/api/worker/shutdown/{NODE}", {})
    until(lambda: worker.process.poll() is not None, PATIENCE, "the worker has ended")
    assert worker.process.poll() == 0, worker.log
