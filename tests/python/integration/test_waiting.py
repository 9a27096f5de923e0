"""ETA, expiry, rate limits."""

from __future__ import annotations

import time
from typing import Any

import pytest

from celeriac.exceptions import TaskRevokedError

TASKS = """
    @app.task(name="now")
    def now():
        return time.time()

    @app.task(name="limited", rate_limit="10/s")
    def limited():
        mark("limited")
        return time.time()
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "2")


def test_a_task_does_not_run_before_its_time(project: Any, worker: Any) -> None:
    sent = time.time()

    ran = project.send("now", countdown=0.5).get(timeout=30)

    assert ran >= sent + 0.5


def test_tasks_for_later_do_not_hold_up_those_for_now(project: Any, worker: Any) -> None:
    for _ in range(50):
        project.send("now", countdown=3600)

    assert project.send("now").get(timeout=30)
    assert project.queue()["parked"] == 50


def test_an_expired_task_is_revoked(project: Any, worker: Any) -> None:
    result = project.send("now", expires=-1)

    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=30)
    assert result.state == "REVOKED"


def test_a_rate_limit_holds(project: Any, worker: Any) -> None:
    sent = time.time()
    results = [project.send("limited") for _ in range(6)]

    last = max(result.get(timeout=30) for result in results)

    # Five gaps of a tenth of a second after the first, which a slow machine may begin late.
    assert last >= sent + 0.5
