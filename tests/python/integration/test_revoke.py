"""Revoked tasks: before they run, and while they do."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.exceptions import TaskRevokedError

TASKS = """
    @app.task(name="wait")
    def wait():
        mark("waiting")
        while not (here / "go").exists():
            time.sleep(0.01)
        return "done"

    @app.task(name="add")
    def add(x, y):
        mark("added")
        return x + y

    @signals.task_revoked.connect
    def revoked(sender, request, terminated, signum, expired, **kwargs):
        mark("revoked", f"{sender.name}:{terminated}:{expired} ")
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "1")


def test_a_revoked_task_is_not_run(project: Any, worker: Any) -> None:
    running = project.send("wait")
    project.wait_for_mark("waiting")
    result = project.send("add", 1, 1)

    result.revoke()
    worker.wait_for(f"flagged as revoked: {result.id}")
    (project.folder / "go").touch()

    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(timeout=30)
    assert running.get(timeout=30) == "done"
    assert project.marks("added") == ""
    # The state is stored at once; the handlers run in a child that is free.
    assert project.wait_for_mark("revoked", "add:False:False ") == "add:False:False "


def test_a_running_task_is_terminated_on_request_and_the_next_one_runs(project: Any, worker: Any) -> None:
    result = project.send("wait")
    project.wait_for_mark("waiting")

    result.revoke(terminate=True)

    with pytest.raises(TaskRevokedError, match="terminated"):
        result.get(timeout=30)
    assert project.send("add", 1, 1).get(timeout=30) == 2
    assert project.wait_for_mark("revoked", "wait:True:False ") == "wait:True:False "


def test_revoking_a_running_task_without_terminating_changes_nothing(project: Any, worker: Any) -> None:
    result = project.send("wait")
    project.wait_for_mark("waiting")

    result.revoke()
    worker.wait_for(f"flagged as revoked: {result.id}")
    (project.folder / "go").touch()

    assert result.get(timeout=30) == "done"
