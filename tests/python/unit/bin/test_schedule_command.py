"""The commands `beat` and `schedule`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from click.testing import CliRunner

from celeriac.bin import celeriac

APP = """
    from celeriac import Celery
    app = Celery("periodic_app", broker="memory://commands")
    @app.task(name="tick")
    def tick(x=1): ...
    @app.on_after_finalize.connect
    def entries(sender, **kwargs):
        sender.add_periodic_task(60.0, tick.s(5), name="minutely")
    """


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "periodic_app.py").write_text(dedent(APP))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def invoke(*args: str, code: int = 0) -> Any:
        result = CliRunner().invoke(celeriac, ["-A", "periodic_app", *args])
        assert result.exit_code == code, result.output
        return result

    yield invoke
    if (module := sys.modules.pop("periodic_app", None)) is not None:
        for entry in ("minutely", "new"):
            module.app.schedules._change(entry, None)
        module.app.client.purge("celery")
        module.app.close()


def listed(run: Any) -> dict[str, Any]:
    return {task["name"]: task for task in json.loads(run("schedule", "list", "--json").stdout)["tasks"]}


def test_tasks_are_listed_paused_and_resumed(run: Any) -> None:
    assert "minutely: tick <freq: 1.00 minute>" in run("schedule", "list").stdout

    run("schedule", "pause", "minutely")
    assert listed(run)["minutely"]["paused"]
    assert "paused" in run("schedule", "list").stdout
    run("schedule", "resume", "minutely")
    assert not listed(run)["minutely"]["paused"]
    assert listed(run)["minutely"]["next_run_at"]


def test_tasks_are_added_and_removed(run: Any) -> None:
    run("schedule", "add", "new", "tick", "--cron", "0 4 * * mon", "-a", "[1]")
    assert listed(run)["new"]["schedule"] == "<crontab: 0 4 * * mon (m/h/dM/MY/d)>"
    assert listed(run)["new"]["source"] == "added"

    run("schedule", "remove", "new", "minutely")
    assert [(name, task["removed"]) for name, task in listed(run).items()] == [("minutely", True)]


def test_a_task_is_sent_now_and_its_id_printed(run: Any) -> None:
    task_id = run("schedule", "run", "minutely").stdout.strip()

    assert len(task_id) == 36
    assert sys.modules["periodic_app"].app.client.queues()[0]["ready"] == 1


@pytest.mark.parametrize(
    ("arguments", "problem", "code"),
    [
        (("pause", "nope"), "no periodic task 'nope'; known: minutely", 1),
        (("add", "new", "tick"), "when is it to run?", 2),
        (("add", "new", "tick", "--every", "5", "--cron", "* * * * *"), "when is it to run?", 2),
        (("add", "new", "tick", "--cron", "61 * * * *"), "Invalid end range", 2),
        (("add", "new", "tick", "--cron", "*/ * * * *"), "empty filter", 2),
        (("add", "new", "tick", "--cron", "* *"), "not enough values", 2),
    ],
)
def test_wrong_use_is_told_in_a_line(run: Any, arguments: tuple[str, ...], problem: str, code: int) -> None:
    result = run("schedule", *arguments, code=code)

    assert problem in result.stderr
    assert "Traceback" not in result.output


def test_remote_control_of_beat_is_refused(run: Any) -> None:
    assert "not in this version" in run("beat", "--enable-remote-control", code=2).stderr


def test_a_scheduler_that_is_not_there_is_told_in_a_line(run: Any) -> None:
    assert "no_such" in run("beat", "-S", "no_such:Scheduler", code=2).stderr
