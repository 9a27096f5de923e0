"""Starting: the banner, what stops a start, the embedded broker."""

from __future__ import annotations

import json
from typing import Any

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
