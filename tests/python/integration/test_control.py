"""Remote control: questions and commands, from the client and from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from .conftest import PYTHON_PATH, children_of, wait_until

TASKS = """
    import ctypes
    from celeriac.worker.control import control_command, inspect_command

    @app.task(name="wait")
    def wait():
        mark("waiting")
        while not (here / "go").exists():
            time.sleep(0.01)
        return "done"

    @app.task(name="hog")
    def hog():
        mark("hogging")
        ctypes.PyDLL(None).sleep(600)

    @app.task(name="add", max_retries=7)
    def add(x, y):
        return x + y

    @control_command(args=[("n", int)], signature="[N=1]")
    def double(state, n=1):
        "Doubles a number."
        return {"ok": {"twice": 2 * n, "app": state.app.main, "node": state["hostname"]}}

    @inspect_command(name="broken")
    def breaks(state):
        raise ValueError("it breaks")
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "1", "-n", "w1@here")


def run(project: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "celeriac", "-A", "tasks", *arguments],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": PYTHON_PATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_worker_tells_of_itself_and_of_its_tasks(project: Any, worker: Any) -> None:
    inspect = project.client.control.inspect(timeout=10, limit=1)
    running = project.send("wait")
    project.wait_for_mark("waiting")

    active = wait_until(inspect.active, "an answer")["w1@here"]

    assert [one["id"] for one in active] == [running.id]
    assert active[0]["args"] == []
    assert active[0]["worker_pid"] in children_of(worker.pid)
    assert inspect.query_task(running.id)["w1@here"][running.id][0] == "active"
    stats = inspect.stats()["w1@here"]
    assert stats["pid"] == worker.pid
    assert stats["pool"]["max-concurrency"] == 1
    assert stats["total"] == {"wait": 1}
    assert stats["rusage"]["maxrss"] > 1000
    assert "add [max_retries=7]" in inspect.registered("max_retries")["w1@here"]
    assert inspect.registered()["w1@here"] == ["add", "hog", "wait"]
    assert [queue["name"] for queue in inspect.active_queues()["w1@here"]] == ["celery"]
    assert inspect.conf()["w1@here"]["broker_url"] == project.url
    assert "worker_prefetch_multiplier" in inspect.conf(with_defaults=True)["w1@here"]
    assert "celeriac" in inspect.report()["w1@here"]["ok"]
    (project.folder / "go").touch()
    assert running.get(timeout=30) == "done"


def test_replies_end_when_there_are_enough_and_silence_is_an_answer(project: Any, worker: Any) -> None:
    seen: list[Any] = []
    control = project.client.control

    assert control.ping(destination=["w1@here"], timeout=30, callback=seen.append) == [{"w1@here": {"ok": "pong"}}]
    assert seen == [{"w1@here": {"ok": "pong"}}]
    assert control.broadcast("ping", reply=True, limit=1, timeout=30, pattern="w1*", matcher="glob")
    assert control.inspect(destination="w1@here", timeout=30).ping() == {"ok": "pong"}
    assert control.ping(destination=["w2@here"], timeout=0.2) == []
    assert control.inspect(destination=["w2@here"], timeout=0.2).ping() is None
    with pytest.raises(ValueError, match="list/tuple"):
        control.broadcast("ping", destination="w1@here")


def test_commands_of_the_app_are_carried_out_by_the_worker(project: Any, worker: Any) -> None:
    broadcast = project.client.control.broadcast

    answer = broadcast("double", {"n": 4}, reply=True, limit=1, timeout=30)
    assert answer == [{"w1@here": {"ok": {"twice": 8, "app": "tasks", "node": "w1@here"}}}]
    answer = broadcast("double", reply=True, limit=1, timeout=30, wrong=1)
    assert "unexpected keyword argument 'wrong'" in answer[0]["w1@here"]["error"]
    answer = broadcast("broken", reply=True, limit=1, timeout=30)
    assert answer == [{"w1@here": {"error": "ValueError('it breaks')"}}]
    answer = broadcast("no_such", reply=True, limit=1, timeout=30)
    assert answer == [{"w1@here": {"error": "KeyError('no_such')"}}]


def test_a_worker_whose_processes_hold_the_interpreter_in_c_answers(project: Any, worker: Any) -> None:
    project.send("hog")
    project.wait_for_mark("hogging")

    assert project.client.control.ping(destination=["w1@here"], timeout=30) == [{"w1@here": {"ok": "pong"}}]
    assert len(project.client.control.inspect(timeout=30, limit=1).active()["w1@here"]) == 1


def test_the_command_line_asks_and_tells(project: Any, worker: Any) -> None:
    ping = run(project, "inspect", "ping", "-d", "w1@here", "-t", "20")
    assert (ping.returncode, ping.stdout) == (0, "->  w1@here: OK\n        pong\n\n1 node online.\n"), ping.stderr
    status = run(project, "status", "-d", "w1@here", "-t", "20")
    assert status.stdout == "->  w1@here: OK\n\n1 node online.\n"
    as_json = run(project, "inspect", "registered", "max_retries", "--json", "-d", "w1@here", "-t", "20")
    assert json.loads(as_json.stdout)["w1@here"][0] == "add [max_retries=7]"
    limit = run(project, "control", "rate_limit", "add", "5/m", "-d", "w1@here", "-t", "20")
    assert limit.stdout == "->  w1@here: OK\n        new rate limit set successfully\n"
    own = run(project, "control", "double", "21", "--json", "-d", "w1@here", "-t", "20")
    assert json.loads(own.stdout)[0]["w1@here"]["ok"]["twice"] == 42

    nobody = run(project, "status", "-d", "w9@here", "-t", "0.2")
    assert (nobody.returncode, nobody.stdout) == (69, "")
    assert "No nodes replied within time constraint" in nobody.stderr
    wrong = run(project, "inspect", "pingg")
    assert wrong.returncode == 2
    assert "not recognized" in wrong.stderr
    listed = run(project, "control", "--list")
    assert "double [N=1]" in listed.stdout
    assert "Doubles a number." in listed.stdout


def test_a_worker_is_shut_down_from_afar(project: Any, worker: Any) -> None:
    project.client.control.shutdown(destination=["w1@here"])

    assert worker.wait() == 0
    assert "Got shutdown from remote" in worker.log


def test_revoked_tasks_are_known_after_a_restart(project: Any) -> None:
    project.write(TASKS)
    first = project.start("-c", "1", "-n", "w1@here", "-S", "state-%n")
    task = project.client.send_task("add", (1, 1), countdown=3600)
    task.revoke()
    first.wait_for(f"flagged as revoked: {task.id}")
    first.signal(signal.SIGTERM)
    assert first.wait() == 0

    project.start("-c", "1", "-n", "w1@here", "-S", "state-%n")

    assert project.client.control.inspect(timeout=30, limit=1).revoked() == {"w1@here": [task.id]}
    (project.folder / "old").write_bytes(b"\x13\x57\x9a\xce shelve")
    refused = project.start("-S", "old", ready=False)
    assert refused.wait() != 0
    assert "no state file of celeriac" in refused.log
