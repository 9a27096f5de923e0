"""Starting: the banner, what stops a start, the embedded broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from .conftest import PYTHON_PATH

TASKS = """
    @app.task(name="add")
    def add(x, y):
        return x + y
    """


def test_the_banner_tells_what_matters(project: Any) -> None:
    project.write(TASKS)

    worker = project.start("-c", "1", "-n", "w1@here", "-Q", "celery,other")

    for text in ("w1@here", "tasks", project.url, "1 (prefork)", ". celery", ". other", ". add"):
        assert text in worker.log


def test_with_no_broker_named_the_embedded_one_is_used_and_said(project: Any) -> None:
    (project.folder / "tasks.py").write_text(
        "from celeriac.app.base import Celery\napp = Celery('bare')\n@app.task(name='add')\ndef add(x, y): return x + y\n"
    )

    worker = project.start("-c", "1")

    assert "embedded" in worker.log
    assert (project.folder / "celeriac.db").exists()


def test_a_database_that_cannot_be_made_is_one_line(project: Any) -> None:
    project.url = "sqlite:////nowhere/at/all/queue.db"
    project.write(TASKS)

    worker = project.start(ready=False)

    assert worker.wait() in (1, 2)
    assert "Traceback" not in worker.log
    assert "/nowhere/at/all" in worker.log


def test_json_lines_are_json(project: Any) -> None:
    project.write(TASKS)
    worker = project.start("-c", "1", "-q", "--log-format", "json", ready=False)
    worker.wait_for("ready")
    result = project.send("add", 1, 1)
    result.get(timeout=30)
    worker.wait_for("succeeded")
    assert worker.stop() == 0

    entries = [json.loads(line) for line in worker.lines if line.startswith("{")]
    [line] = [entry for entry in entries if "succeeded" in entry["message"]]
    assert line["level"] == "INFO"
    assert line["task_id"] == result.id
    assert line["task_name"] == "add"
    assert line["process"].startswith("ForkPoolWorker-")


def test_the_pid_file_is_there_while_the_worker_runs(project: Any) -> None:
    project.write(TASKS)
    path = project.folder / "worker.pid"
    worker = project.start("-c", "1", "--pidfile", str(path))

    assert path.read_text().strip() == str(worker.pid)
    second = project.start("--pidfile", str(path), ready=False)
    assert second.wait() == 2
    assert f"process {worker.pid} runs already" in second.log

    worker.stop()
    assert not path.exists()


def test_purge_deletes_what_waits_before_the_start(project: Any) -> None:
    project.write(TASKS)
    old = [project.send("add", 1, 1) for _ in range(5)]

    worker = project.start("-c", "1", "--purge")

    assert "Erased 5 messages" in worker.log
    assert "threads already" not in worker.log, "children are forked from a process with one thread"
    assert project.send("add", 1, 1).get(timeout=30) == 2
    assert {project.state(one.id) for one in old} == {"PENDING"}


def test_a_broker_in_memory_is_refused_for_a_pool_of_processes(project: Any) -> None:
    project.write(TASKS)

    worker = project.start("--broker", "memory://", ready=False)

    assert worker.wait() == 2
    assert worker.lines == [
        "Error: memory:// lives in one process, and the prefork pool runs tasks in others: name a broker that "
        "processes can share, such as sqlite:///, or use --pool solo"
    ]


def test_a_log_file_that_cannot_be_written_is_one_line(project: Any) -> None:
    project.write(TASKS)

    worker = project.start("--logfile", "/nowhere/at/all.log", ready=False)

    assert worker.wait() == 2
    assert worker.lines == ["Error: the log file '/nowhere/at/all.log' cannot be written: No such file or directory"]


def test_a_hard_time_limit_is_refused_for_the_solo_pool(project: Any) -> None:
    project.write(TASKS)

    worker = project.start("-P", "solo", "--time-limit", "5", ready=False)

    assert worker.wait() == 2
    assert "a hard time limit needs a pool of processes" in worker.lines[-1]


def test_a_module_with_tasks_and_no_app_is_served_by_the_default_app(project: Any) -> None:
    (project.folder / "tasks.py").write_text(
        "from celeriac import task\n@task\ndef add(x: int, y: int) -> int:\n    return x + y\n"
        "if __name__ == '__main__':\n    print(add.delay(2, 3).get(timeout=30))\n"
    )
    worker = project.start("-c", "1")
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH}

    # As a script its module is `__main__`, and the task's name is the same.
    done = subprocess.run(
        [sys.executable, "tasks.py"], cwd=project.folder, env=environment, capture_output=True, text=True, timeout=60
    )

    assert (done.stdout, done.stderr) == ("5\n", "")
    assert ". tasks.add" in worker.log
