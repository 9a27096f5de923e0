"""A child that dies: with early and late acknowledgement."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from celeriac.exceptions import WorkerLostError

from .conftest import wait_until

TASKS = """
    @app.task(name="die")
    def die():
        mark("die")
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="die_late", acks_late=True)
    def die_late():
        mark("die_late")
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="die_once", acks_late=True, reject_on_worker_lost=True)
    def die_once():
        mark("die_once")
        if len((here / "die_once").read_text()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return "second delivery"

    @app.task(name="die_always", acks_late=True, reject_on_worker_lost=True)
    def die_always():
        mark("die_always")
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="leave")
    def leave():
        raise SystemExit(3)

    @app.task(name="hang", bind=True)
    def hang(self):
        mark("hang", f"{os.getpid()} ")
        time.sleep(60)

    @app.task(name="add")
    def add(x, y):
        return x + y
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "1")


def test_a_started_task_is_lost_with_its_child_under_early_acknowledgement(project: Any, worker: Any) -> None:
    with pytest.raises(WorkerLostError, match=r"Worker exited prematurely: signal 9 \(SIGKILL\) Job: \d+\."):
        project.send("die").get(timeout=30)

    assert project.send("add", 1, 1).get(timeout=30) == 2
    assert project.marks("die") == "x"


def test_late_acknowledgement_alone_fails_the_task(project: Any, worker: Any) -> None:
    with pytest.raises(WorkerLostError):
        project.send("die_late").get(timeout=30)
    assert project.marks("die_late") == "x"


def test_reject_on_worker_lost_runs_the_task_again(project: Any, worker: Any) -> None:
    assert project.send("die_once").get(timeout=30) == "second delivery"
    assert project.marks("die_once") == "xx"


def test_a_task_that_always_kills_its_child_becomes_a_dead_letter(project: Any, worker: Any) -> None:
    project.send("die_always")
    project.wait_for_mark("die_always", "xxx")

    assert project.send("add", 1, 1).get(timeout=30) == 2

    wait_until(lambda: project.queue().get("dead") == 1, "one dead letter")
    assert project.marks("die_always") == "xxx"


def test_a_task_that_ends_its_process_is_lost(project: Any, worker: Any) -> None:
    with pytest.raises(WorkerLostError, match="exitcode 3"):
        project.send("leave").get(timeout=30)


def test_tasks_behind_a_dying_one_are_not_lost(project: Any, worker: Any) -> None:
    results = []
    for n in range(20):
        if n % 5 == 2:
            project.send("die")
        results.append(project.send("add", n, 1))

    assert [result.get(timeout=60) for result in results] == [n + 1 for n in range(20)]


def test_a_child_killed_from_outside_is_replaced(project: Any, worker: Any) -> None:
    result = project.send("hang")
    pid = int(project.wait_for_mark("hang", "1 ").split()[0])

    os.kill(pid, signal.SIGKILL)

    with pytest.raises(WorkerLostError):
        result.get(timeout=30)
    assert project.send("add", 1, 1).get(timeout=30) == 2
    worker.wait_for(rf"ERROR/MainProcess\] Process 'ForkPoolWorker-1' pid:{pid} exited with 'signal 9 \(SIGKILL\)'$")
    assert worker.log.count(f"{pid}") == 1, "a death is told of once"
