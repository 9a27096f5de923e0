"""Soft and hard time limits."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

TASKS = """
    from celeriac.app.task import Task

    class Telling(Task):
        def on_failure(self, exc, task_id, args, kwargs, einfo):
            mark("told", repr(exc))

    @app.task(name="sleep")
    def sleep(seconds):
        time.sleep(seconds)
        return "slept"

    @app.task(name="told", base=Telling)
    def told():
        time.sleep(60)

    @app.task(name="catches")
    def catches():
        try:
            time.sleep(60)
        except SoftTimeLimitExceeded:
            return "cleaned up"

    @app.task(name="asleep")
    async def asleep():
        try:
            await asyncio.sleep(60)
        except SoftTimeLimitExceeded:
            return "awoken"

    @app.task(name="limited", time_limit=0.3)
    def limited():
        time.sleep(60)

    @app.task(name="pid")
    def pid():
        return os.getpid()
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "1")


def test_the_soft_limit_of_a_call_is_raised_in_the_task(project: Any, worker: Any) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        project.send("sleep", 60, soft_time_limit=0.2).get(timeout=30)
    worker.wait_for(r"ERROR/ForkPoolWorker-\d+\] Task sleep\[.*\] raised unexpected: SoftTimeLimitExceeded")


def test_a_task_that_catches_the_soft_limit_ends_as_it_likes(project: Any, worker: Any) -> None:
    assert project.send("catches", soft_time_limit=0.2).get(timeout=30) == "cleaned up"


def test_the_soft_limit_reaches_an_async_task_at_its_await(project: Any, worker: Any) -> None:
    assert project.send("asleep", soft_time_limit=0.2).get(timeout=30) == "awoken"


def test_the_hard_limit_kills_the_process_and_the_next_task_runs(project: Any, worker: Any) -> None:
    before = project.send("pid").get(timeout=30)

    with pytest.raises(TimeLimitExceeded) as caught:
        project.send("sleep", 60, time_limit=0.3).get(timeout=30)

    assert caught.value.args == (0.3,)
    assert project.send("pid").get(timeout=30) != before
    worker.wait_for(r"Hard time limit .* exceeded for sleep")


def test_the_limit_of_a_task_holds_without_one_in_the_call(project: Any, worker: Any) -> None:
    with pytest.raises(TimeLimitExceeded):
        project.send("limited").get(timeout=30)


def test_hooks_of_a_killed_task_are_called(project: Any, worker: Any) -> None:
    with pytest.raises(TimeLimitExceeded):
        project.send("told", time_limit=0.3).get(timeout=30)
    assert project.wait_for_mark("told", "TimeLimitExceeded(0.3)") == "TimeLimitExceeded(0.3)"


def test_limits_of_the_command_line_hold_for_all_tasks(project: Any) -> None:
    project.write(TASKS)
    project.start("-c", "1", "--time-limit", "0.3")

    with pytest.raises(TimeLimitExceeded):
        project.send("sleep", 60).get(timeout=30)
