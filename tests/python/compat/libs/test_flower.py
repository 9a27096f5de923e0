"""Flower as the command `celery flower`, in a process of its own, beside a worker."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from ...servers.run import free_port, until
from .sides import PATIENCE, Program, Side


class Flower:
    """The program, and its HTTP API."""

    def __init__(self, side: Side) -> None:
        self.port = free_port()
        options = [f"--port={self.port}", "--address=127.0.0.1", "--inspect_timeout=5000"]
        self.program: Program = side.start("flower", side.celery("-A", "flower_app", "flower", *options))
        until(self._answers, PATIENCE, f"Flower answers, see {self.program.output}")

    def _answers(self) -> bool:
        assert self.program.process.poll() is None, self.program.log
        try:
            self.ask("/api/workers?status=true")
        except OSError:
            return False
        return True

    def ask(self, path: str, data: dict[str, Any] | None = None) -> Any:
        """GET, or POST with data as JSON; the JSON of the answer."""
        body = None if data is None else json.dumps(data).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", body, timeout=30) as answer:
            return json.load(answer)

    def page(self, path: str) -> str:
        """A page as a browser gets it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            text: str = answer.read().decode()
        return text

    def state(self, task_id: str) -> dict[str, Any]:
        """What it knows of a task; nothing when it has not heard of it."""
        try:
            found: dict[str, Any] = self.ask(f"/api/task/info/{task_id}")
        except urllib.error.HTTPError:
            return {}
        return found


def test_the_command_flower_shows_workers_and_tasks(make_side: Callable[..., Side]) -> None:
    side = make_side(FLOWER_UNAUTHENTICATED_API="1")
    flower = Flower(side)
    side.worker("flower_app", "-c", "1", "-E")
    until(lambda: flower.ask("/api/workers?status=true").get("libs@host"), PATIENCE, "the worker in Flower")

    added = flower.ask("/api/task/async-apply/flower_app.add", {"args": [2, 3]})["task-id"]
    failed = flower.ask("/api/task/send-task/flower_app.fail", {"args": []})["task-id"]
    until(lambda: flower.state(added).get("state") == "SUCCESS", PATIENCE, "success")
    until(lambda: flower.state(failed).get("state") == "FAILURE", PATIENCE, "failure")

    known = flower.state(added)
    assert (known["name"], known["result"], known["worker"]) == ("flower_app.add", "5", "libs@host")
    assert flower.state(failed)["exception"] == "ValueError('bad value')"
    assert flower.ask(f"/api/task/result/{added}")["result"] == 5
    assert flower.ask("/api/task/apply/flower_app.add", {"args": [4, 5]})["result"] == 9
    assert {"flower_app.add", "flower_app.fail"} <= set(flower.ask("/api/task/types")["task-types"])
    worker = flower.ask("/api/workers?refresh=true&workername=libs@host")["libs@host"]
    assert [queue["name"] for queue in worker["active_queues"]] == ["celery"]
    assert flower.ask("/api/queues/length")["active_queues"] == [{"name": "celery", "messages": 0}]
    assert "libs@host" in flower.page("/workers")
    assert "flower_app.fail" in flower.page(f"/task/{failed}")
    assert "flower_task_runtime_seconds" in flower.page("/metrics")
    assert "broker" in flower.page("/broker").lower()

    flower.program.stop()
    assert flower.program.process.poll() in (0, -15)
