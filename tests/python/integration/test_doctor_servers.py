"""`doctor` and `result --follow` against real servers and a real worker."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from .command_lines import CommandLines
from .conftest import Project

STEPS = """
    @app.task(bind=True, name="steps", time_limit=60)
    def steps(self, fail=False):
        while not (here / "go").exists():
            time.sleep(0.01)
        for current in (1, 2, 3):
            self.update_state(state="PROGRESS", meta={"current": current, "total": 3})
            while not (here / f"go{current}").exists():
                time.sleep(0.01)
        if fail:
            raise KeyError("lost")
        return {"answer": 42}
    """


def doctor(project: Project, *options: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    done = CommandLines(project.folder).run("-A", "tasks", *options, "doctor", "--json")
    assert "Traceback" not in done.stderr
    found: dict[str, list[dict[str, str]]] = {}
    for one in json.loads(done.stdout)["findings"]:
        found.setdefault(one["level"], []).append(one)
    return done.returncode, found


def about(found: dict[str, list[dict[str, str]]], level: str) -> str:
    return "\n".join(f"{one['about']}: {one['text']}" for one in found.get(level, ()))


@pytest.fixture
def good(project: Project) -> Project:
    project.write(STEPS)
    return project


def test_a_careless_redis_is_told_from_a_careful_one(good: Project, own_redis: Callable[..., Any]) -> None:
    careless = own_redis("--maxmemory-policy", "allkeys-lru", "--appendonly", "no", "--save", "")
    careful = own_redis("--maxmemory-policy", "noeviction", "--appendonly", "yes")

    bad_code, bad = doctor(good, "-b", careless.url(), "--result-backend", careless.url())
    code, fine = doctor(good, "-b", careful.url(), "--result-backend", careful.url())

    assert bad_code == 1
    assert "throws messages away when its memory is full (maxmemory-policy allkeys-lru)" in about(bad, "warning")
    assert "keeps nothing on disk" in about(bad, "warning")
    assert code == 0, fine
    assert re.search(r"broker: redis://.* \(version \d+\.\d+", about(fine, "ok"))
    assert "clock: that of the broker agrees" in about(fine, "ok")
    assert "0 of celeriac hold a lease" in about(fine, "info")


def test_a_wrong_password_is_an_error(good: Project, own_redis: Callable[..., Any]) -> None:
    url = own_redis().url().replace("//", "//stranger:falsch@", 1)

    code, found = doctor(good, "-b", url, "--result-backend", url)

    assert code == 2
    assert "broker:" in about(found, "error")
    assert "result backend:" in about(found, "error")
    assert "falsch" not in json.dumps(found)


def test_queues_of_rabbitmq_without_a_consumer_are_told(good: Project, rabbitmq_url: str) -> None:
    lines = CommandLines(good.folder)
    assert lines.run("-A", "tasks", "-b", rabbitmq_url, "call", "steps").returncode == 0

    code, found = doctor(good, "-b", rabbitmq_url, "--result-backend", "rpc://")

    assert code == 1
    assert "no queue of these has a consumer: 1 in celery" in about(found, "warning")
    assert "celery: classic" in about(found, "info")


def test_workers_with_a_lease_are_counted(good: Project) -> None:
    good.start("-c", "1")

    code, found = doctor(good)

    assert code == 0, found
    assert "1 of celeriac hold a lease" in about(found, "info")


def test_following_shows_each_state_and_then_the_result(good: Project) -> None:
    good.start("-c", "1")
    task = good.send("steps")
    follower = CommandLines(good.folder).begin("-A", "tasks", "result", "--follow", task.id)
    assert follower.stderr is not None
    assert follower.stdout is not None

    seen = [follower.stderr.readline().strip()]
    (good.folder / "go").touch()
    for number in (1, 2, 3):
        seen.append(follower.stderr.readline().strip())
        (good.folder / f"go{number}").touch()
    out, err = follower.communicate(timeout=30)

    assert seen == ["PENDING", "PROGRESS 1/3", "PROGRESS 2/3", "PROGRESS 3/3"]
    assert err.strip() == "SUCCESS"
    assert out == "{'answer': 42}\n"
    assert follower.returncode == 0


def test_following_on_a_terminal_draws_a_bar(good: Project) -> None:
    good.start("-c", "1")
    for name in ("go", "go1", "go2"):
        (good.folder / name).touch()
    task = good.send("steps")
    lines = CommandLines(good.folder)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "celeriac", "-A", "tasks", "result", "-F", task.id]
    process = subprocess.Popen(
        command, cwd=good.folder, env=lines.environment, stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    drawn = ""
    while "PROGRESS" not in drawn or "100%" not in drawn:
        drawn += os.read(ours, 1000).decode()
    (good.folder / "go3").touch()
    out, _ = process.communicate(timeout=30)
    os.close(ours)

    assert "#" in drawn
    assert out == "{'answer': 42}\n"


def test_the_end_of_a_task_that_failed_is_told_in_json_and_by_the_exit_code(good: Project) -> None:
    good.start("-c", "1")
    for name in ("go", "go1", "go2", "go3"):
        (good.folder / name).touch()
    task = good.send("steps", True)

    done = CommandLines(good.folder).run("-A", "tasks", "result", "--follow", "--json", task.id)

    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["task_id"], found["status"]) == (task.id, "FAILURE")
    assert found["result"] == {"type": "KeyError", "message": "'lost'"}
    assert "KeyError: 'lost'" in found["traceback"]


def test_following_ends_when_the_time_is_over(good: Project) -> None:
    done = CommandLines(good.folder).run("-A", "tasks", "result", "--follow", "--timeout", "0.2", "no-such-task")

    assert done.returncode == 1
    assert "has no result after 0.2 seconds" in done.stderr
