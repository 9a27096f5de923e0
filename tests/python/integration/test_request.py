"""What a bound task sees, and how its states go out."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import wait_until

TASKS = """
    @app.task(name="who", bind=True)
    def who(self, *args, **kwargs):
        r = self.request
        return {
            "id": r.id, "args": r.args, "kwargs": r.kwargs, "retries": r.retries, "hostname": r.hostname,
            "delivery_info": r.delivery_info, "root_id": r.root_id, "parent_id": r.parent_id,
            "called_directly": r.called_directly, "headers": r.headers, "current": app.current_worker_task.name,
        }

    @app.task(name="progress", bind=True)
    def progress(self):
        self.update_state(state="PROGRESS", meta={"current": 3, "total": 10})
        mark("updated")
        while not (here / "go").exists():
            time.sleep(0.01)
        return "done"

    @app.task(name="tracked", track_started=True)
    def tracked():
        mark("tracked")
        while not (here / "go").exists():
            time.sleep(0.01)
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "1", "-n", "w1@somewhere")


def test_the_request_is_complete(project: Any, worker: Any) -> None:
    result = project.client.send_task("who", (1,), {"k": 2}, headers={"x-tenant": "acme"})

    assert result.get(timeout=30) == {
        "id": result.id,
        "args": [1],
        "kwargs": {"k": 2},
        "retries": 0,
        "hostname": "w1@somewhere",
        "delivery_info": {"exchange": "", "routing_key": "celery", "priority": None, "redelivered": False},
        "root_id": result.id,
        "parent_id": None,
        "called_directly": False,
        "headers": {"x-tenant": "acme"},
        "current": "who",
    }


def test_a_state_of_the_tasks_own_is_seen_while_it_runs(project: Any, worker: Any) -> None:
    result = project.send("progress")
    project.wait_for_mark("updated")

    wait_until(lambda: result.state == "PROGRESS", "the state is PROGRESS")
    assert result.info == {"current": 3, "total": 10}
    (project.folder / "go").touch()

    assert result.get(timeout=30) == "done"


def test_started_is_stored_when_it_is_tracked(project: Any, worker: Any) -> None:
    result = project.send("tracked")
    project.wait_for_mark("tracked")

    wait_until(lambda: result.state == "STARTED", "the state is STARTED")
    assert result.info["hostname"] == "w1@somewhere"
    (project.folder / "go").touch()
    result.get(timeout=30)
