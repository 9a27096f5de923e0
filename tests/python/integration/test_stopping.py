"""How a worker ends: warm, cold, killed."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from .conftest import children_of, lives, wait_until

TASKS = """
    @app.task(name="wait")
    def wait():
        mark("waiting")
        while not (here / "go").exists():
            time.sleep(0.01)
        return "done"

    @app.task(name="wait_late", acks_late=True)
    def wait_late():
        mark("waiting")
        while not (here / "go").exists():
            time.sleep(0.01)
        return "done"

    @app.task(name="add")
    def add(x, y):
        return x + y

    @signals.worker_ready.connect
    def ready(sender, **kwargs):
        mark("signals", f"ready:{sender.hostname} ")

    @signals.worker_shutting_down.connect
    def shutting_down(sender, sig, how, exitcode, **kwargs):
        mark("signals", f"shutting_down:{sig}:{how}:{exitcode} ")

    @signals.worker_shutdown.connect
    def shutdown(sender, **kwargs):
        mark("signals", "shutdown ")

    @signals.celeryd_init.connect
    def init(sender, instance, conf, options, **kwargs):
        mark("signals", "celeryd_init ")

    @signals.worker_init.connect
    def worker_init(sender, **kwargs):
        mark("signals", "worker_init ")

    @signals.celeryd_after_setup.connect
    def after_setup(sender, instance, conf, **kwargs):
        mark("signals", "celeryd_after_setup ")
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "1", "-n", "w1@here")


def test_a_warm_stop_lets_running_tasks_end_and_hands_the_rest_back(project: Any, worker: Any) -> None:
    result = project.send("wait")
    project.wait_for_mark("waiting")
    rest = [project.send("add", n, n) for n in range(10)]
    wait_until(lambda: project.queue()["ready"] < 10, "some are claimed ahead")

    worker.signal(signal.SIGTERM)
    wait_until(lambda: project.queue()["ready"] == 10, "what has not begun is handed back")
    (project.folder / "go").touch()

    assert worker.wait() == 0
    assert result.get(timeout=30) == "done"
    assert [line for line in worker.lines if "shutdown" in line.lower()] == ["worker: Warm shutdown (MainProcess)"]
    states = [project.state(one.id) for one in rest]
    assert project.queue()["ready"] == states.count("PENDING") == 10
    assert project.queue()["claimed"] == 0


def test_start_and_stop_send_their_signals_in_order(project: Any, worker: Any) -> None:
    assert worker.stop() == 0

    assert project.marks("signals").split() == [
        "celeryd_init",
        "worker_init",
        "celeryd_after_setup",
        "ready:w1@here",
        "shutting_down:SIGTERM:Warm:0",
        "shutdown",
    ]


def test_a_cold_stop_gives_a_late_acknowledged_task_back(project: Any, worker: Any) -> None:
    result = project.send("wait_late")
    project.wait_for_mark("waiting")

    worker.signal(signal.SIGQUIT)

    assert worker.wait() == 1
    wait_until(lambda: project.queue()["ready"] == 1, "the task is ready again")
    (project.folder / "go").touch()
    project.start("-c", "1")
    assert result.get(timeout=30) == "done"


def test_the_first_interrupt_is_warm_and_the_second_cold(project: Any, worker: Any) -> None:
    project.send("wait_late")
    project.wait_for_mark("waiting")

    worker.signal(signal.SIGINT)
    worker.wait_for("Warm shutdown")
    assert worker.process.poll() is None
    worker.signal(signal.SIGINT)

    assert worker.wait() == 1
    assert [line for line in worker.lines if "shutdown" in line] == [
        "worker: Warm shutdown (MainProcess)",
        "worker: Cold shutdown (MainProcess)",
    ]


def test_a_second_sigterm_is_cold_unless_it_is_the_same_order(project: Any, worker: Any) -> None:
    project.send("wait_late")
    project.wait_for_mark("waiting")

    # As `timeout` does: the process, and at once its group.
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGTERM)
    worker.wait_for("Warm shutdown")
    assert "Cold" not in worker.log

    def ended_by_another() -> bool:
        worker.signal(signal.SIGTERM)
        return "Cold shutdown" in worker.log or worker.process.poll() is not None

    wait_until(ended_by_another, "a later one is cold")
    assert worker.wait() == 1
    assert "Cold shutdown" in worker.log


def test_no_process_is_left_behind(project: Any, worker: Any) -> None:
    project.send("add", 1, 1).get(timeout=30)
    processes = children_of(worker.pid)
    assert len(processes) >= 2

    worker.stop()

    assert not any(lives(pid) for pid in processes)


def test_everything_dies_with_the_supervisor(project: Any, worker: Any) -> None:
    project.send("wait")
    project.wait_for_mark("waiting")
    processes = children_of(worker.pid)
    assert len(processes) >= 2

    os.kill(worker.pid, signal.SIGKILL)

    wait_until(lambda: not any(lives(pid) for pid in processes), "fork server and children have ended")


def test_a_dead_fork_server_is_replaced(project: Any, worker: Any) -> None:
    assert project.send("add", 1, 1).get(timeout=30) == 2
    [server] = [pid for pid in children_of(worker.pid) if children_of(pid)]

    os.kill(server, signal.SIGKILL)
    # A task given to the child in the moment before it dies with its server would be lost with it.
    worker.wait_for("exited with")

    assert project.send("add", 2, 2).get(timeout=30) == 4
    assert worker.stop() == 0


def test_a_signal_to_the_whole_group_ends_in_a_warm_stop(project: Any, worker: Any) -> None:
    result = project.send("wait")
    project.wait_for_mark("waiting")

    for pid in [*children_of(worker.pid), worker.pid]:
        os.kill(pid, signal.SIGTERM)
    worker.wait_for("Warm shutdown")
    (project.folder / "go").touch()

    assert worker.wait() == 0
    assert result.get(timeout=30) == "done"
