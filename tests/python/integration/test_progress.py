"""Progress of a task in a real worker, seen by whoever follows it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest

from .conftest import PYTHON_PATH, Project

TASKS = """
    def wait_for(name):
        deadline = time.monotonic() + 30
        while not (here / name).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @app.task(name="count", bind=True)
    def count(self, fails=False):
        for number in range(50):
            self.progress(number + 1, 50, "counting")
        wait_for("seen")
        self.progress(50, 50, "this one is overtaken")
        self.progress(50, 50, "this one too")
        if fails:
            raise ValueError("at the end")
        return "counted"

    @app.task(name="count_later", bind=True)
    async def count_later(self):
        for number in range(50):
            self.progress(number + 1, 50)
        while not (here / "seen").exists():
            await asyncio.sleep(0.01)
    """


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "gevent", "solo"])
def test_the_newest_progress_is_seen_while_the_task_does_something_else(project: Any, pool: str) -> None:
    project.write(TASKS)
    project.start("-P", pool, *(() if pool == "solo" else ("-c", "1")))
    result = project.send("count_later" if pool == "asyncio" else "count")

    seen = []
    for now in result.stream(timeout=30):
        seen.append((now.state, now.info["done"] if now.state == "PROGRESS" else now.info))
        if seen[-1] == ("PROGRESS", 50):
            (project.folder / "seen").touch()

    assert ("PROGRESS", 50) in seen
    assert seen[-1][0] == "SUCCESS"
    assert [state for state, _ in seen].count("PROGRESS") < 10


def test_progress_comes_over_rpc_to_whoever_has_sent_the_task(tmp_path: Any, rabbitmq_url: str) -> None:
    project = Project(tmp_path, rabbitmq_url, "rpc://")
    try:
        project.write(TASKS)
        project.start("-c", "1")
        result = project.send("count")

        seen = []
        for now in result.stream(timeout=30):
            seen.append((now.state, now.info["done"] if now.state == "PROGRESS" else now.info))
            if seen[-1] == ("PROGRESS", 50):
                (project.folder / "seen").touch()
    finally:
        project.close()

    assert ("PROGRESS", 50) in seen
    assert seen[-1] == ("SUCCESS", "counted")


def test_a_failure_is_not_overwritten_by_late_progress(project: Any) -> None:
    project.write(TASKS)
    (project.folder / "seen").touch()
    worker = project.start("-c", "2")

    results = [project.send("count", True) for _ in range(20)]
    for result in results:
        assert isinstance(result.get(timeout=30, propagate=False), ValueError)
    # What was on its way in the children has arrived when they have ended.
    worker.stop()

    assert {result.__class__(result.id, app=project.client).state for result in results} == {"FAILURE"}


def test_result_follow_draws_a_bar_on_a_terminal(project: Any) -> None:
    project.write(TASKS)
    project.start("-c", "1")
    result = project.send("count")
    command = [sys.executable, "-m", "celeriac", "-A", "tasks", "result", "--follow", result.id]
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH, "TERM": "xterm", "COLUMNS": "80"}
    ours, theirs = pty.openpty()

    program = subprocess.Popen(
        command, cwd=project.folder, env=environment, stdout=subprocess.PIPE, stderr=theirs, stdin=theirs, text=True
    )
    os.close(theirs)
    drawn = ""
    # The other end is closed when the program has ended.
    with suppress(OSError):
        while piece := os.read(ours, 4096).decode(errors="replace"):
            drawn += piece
            if "#" in drawn:
                (project.folder / "seen").touch()
    os.close(ours)
    printed, _ = program.communicate(timeout=30)

    assert "counting" in drawn
    assert "100%" in drawn
    assert drawn.rstrip().endswith("SUCCESS")
    assert printed.strip() == "counted"


def test_result_follow_prints_a_line_for_each_state(project: Any) -> None:
    project.write(TASKS)
    project.start("-c", "1")
    result = project.send("count")
    command = [sys.executable, "-m", "celeriac", "-A", "tasks", "result", "--follow", result.id]
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH}

    program = subprocess.Popen(
        command, cwd=project.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stderr is not None
    lines = []
    for line in program.stderr:
        lines.append(line.strip())
        if "50/50" in line:
            (project.folder / "seen").touch()
    printed, _ = program.communicate(timeout=30)

    assert "PROGRESS 50/50 counting" in lines
    assert lines[-1] == "SUCCESS"
    assert (printed.strip(), program.returncode) == ("counted", 0)
