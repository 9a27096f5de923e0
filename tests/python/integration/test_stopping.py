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

    @app.task(name="note")
    def note(n):
        mark("order", str(n))
        return n

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


def test_a_warm_stop_lets_running_tasks_end_and_hands_the_rest_back(project: Any) -> None:
    project.write(TASKS)
    worker = project.start("-c", "1", "--prefetch-multiplier", "4")
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


def test_a_soft_shutdown_lets_tasks_end_for_a_while(project: Any) -> None:
    project.write(TASKS, worker_soft_shutdown_timeout=30)
    worker = project.start("-c", "2")
    ending, hanging = project.send("wait"), project.send("wait_late")
    project.wait_for_mark("waiting", "xx")

    worker.signal(signal.SIGQUIT)
    worker.wait_for("Initiating Soft Shutdown, terminating in 30 seconds")
    assert worker.process.poll() is None
    (project.folder / "go").touch()

    assert worker.wait() == 1
    assert ending.get(timeout=30) == hanging.get(timeout=30) == "done"


def test_a_second_order_ends_a_soft_shutdown(project: Any) -> None:
    project.write(TASKS, worker_soft_shutdown_timeout=3600)
    worker = project.start("-c", "1")
    project.send("wait_late")
    project.wait_for_mark("waiting")

    worker.signal(signal.SIGQUIT)
    worker.wait_for("Initiating Soft Shutdown")
    worker.signal(signal.SIGQUIT)

    assert worker.wait() == 1
    assert project.queue()["ready"] == 1


def test_sigterm_is_a_soft_shutdown_where_it_is_remapped(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAP_SIGTERM", "SIGQUIT")
    project.write(TASKS, worker_soft_shutdown_timeout=0.2)
    worker = project.start("-c", "1")
    project.send("wait_late")
    project.wait_for_mark("waiting")

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 1
    assert "Initiating Soft Shutdown" in worker.log
    assert project.queue()["ready"] == 1


def test_the_drain_ends_at_its_deadline_with_what_is_left_in_its_old_order(project: Any) -> None:
    project.write(TASKS, worker_drain_seconds=0.3)
    worker = project.start("-c", "2", "--prefetch-multiplier", "2")
    waiting = [project.send("wait_late") for _ in range(2)]
    project.wait_for_mark("waiting", "xx")
    rest = [project.send("note", n) for n in range(4)]
    wait_until(lambda: project.queue()["ready"] == 2, "two are claimed ahead")

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    queue = project.queue()
    assert (queue["ready"], queue["claimed"], queue["dead"]) == (6, 0, 0)
    (project.folder / "go").touch()
    # No attempt was counted: a message that may kill no process at all is taken all the same.
    project.write(TASKS, worker_max_crashes=1)
    project.start("-c", "1", "--prefetch-multiplier", "1")
    assert [one.get(timeout=30) for one in waiting] == ["done", "done"]
    assert [one.get(timeout=30) for one in rest] == [0, 1, 2, 3]
    assert project.marks("order") == "0123"
    assert len(project.marks("waiting")) == 4


def test_a_signal_shows_the_stacks_of_the_worker_and_of_every_child(project: Any) -> None:
    project.write(
        TASKS
        + """
    @app.task(name="in_c")
    def stuck_in_c():
        mark("in_c")
        sum(range(10 ** 12))
    """
    )
    worker = project.start("-c", "2")
    project.send("wait")
    project.send("in_c")
    project.wait_for_mark("waiting")
    project.wait_for_mark("in_c")

    worker.signal(signal.SIGUSR1)

    worker.wait_for(r"in _wait\b")
    worker.wait_for(r"in wait\b")
    worker.wait_for(r"in stuck_in_c\b")
    assert worker.log.count("Stacks of the pool process") == 2
    assert worker.process.poll() is None


def test_a_hangup_starts_the_worker_again(project: Any, worker: Any) -> None:
    pid = worker.pid

    worker.signal(signal.SIGHUP)

    worker.wait_for(r" ready\.$", count=2)
    assert worker.pid == pid
    assert project.send("add", 2, 3).get(timeout=30) == 5
    assert worker.stop() == 0
