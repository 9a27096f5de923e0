"""Pools that grow, shrink, are restarted and reloaded while tasks run: nothing is lost, nothing runs twice."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import wait_until

TASKS = """
    VERSION = 1

    @app.task(name="version", bind=True)
    def version(self):
        time.sleep(0.01)
        mark("ran", self.request.id + " ")
        return VERSION

    @app.task(name="together")
    def together(count):
        mark("met")
        while len((here / "met").read_text()) < count:
            time.sleep(0.01)
        return "met"
    """


def control(project: Any, command: str, **arguments: Any) -> Any:
    """Sends a command, and gives the one answer."""
    replies = project.client.control.broadcast(command, arguments, reply=True, timeout=20.0, limit=1)
    (answer,) = replies[0].values()
    return answer


def ran_once(project: Any, results: list[Any]) -> bool:
    """Whether each has run, and has run once."""
    return sorted(project.marks("ran").split()) == sorted(result.id for result in results)


@pytest.mark.parametrize("options", [("-P", "prefork", "-c", "2"), ("-P", "threads", "-c", "4")])
def test_a_reload_brings_new_code_and_loses_nothing(project: Any, options: tuple[str, ...]) -> None:
    project.write(TASKS, worker_pool_restarts=True)
    project.start(*options)
    results = [project.send("version") for _ in range(100)]

    module = project.folder / "tasks.py"
    # Another length: a source of the same length and second would be taken for the one that was compiled.
    module.write_text(module.read_text().replace("VERSION = 1", "VERSION = 22"))
    assert control(project, "pool_restart", reload=True) == {"ok": "reload started"}

    def new_code() -> bool:
        results.append(project.send("version"))
        return bool(results[-1].get(timeout=30) == 22)

    wait_until(new_code, "the new code runs", 60)
    assert {result.get(timeout=30) for result in results} <= {1, 22}
    assert ran_once(project, results)


def test_code_that_cannot_be_imported_leaves_the_old_one_at_work(project: Any) -> None:
    project.write(TASKS, worker_pool_restarts=True)
    worker = project.start("-c", "2")
    assert project.send("version").get(timeout=30) == 1

    with (project.folder / "tasks.py").open("a") as file:
        file.write("\nraise ImportError('half a deployment')\n")
    control(project, "pool_restart", reload=True)
    worker.wait_for("The app cannot be reloaded")

    assert project.send("version").get(timeout=30) == 1


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_a_pool_grows_and_shrinks_on_command(project: Any, pool: str) -> None:
    project.write(TASKS)
    project.start("-P", pool, "-c", "1")

    assert "ok" in control(project, "pool_grow", n=3)
    met = [project.send("together", 4) for _ in range(4)]
    assert [result.get(timeout=30) for result in met] == ["met"] * 4

    results = [project.send("version") for _ in range(100)]
    assert "ok" in control(project, "pool_shrink", n=3)
    assert {result.get(timeout=30) for result in results} == {1}
    assert ran_once(project, results)


def test_the_bounds_of_autoscaling_are_changed_on_command(project: Any) -> None:
    project.write(TASKS)
    project.start("--autoscale", "2,1")

    assert control(project, "autoscale", max=4, min=2) == {"ok": "autoscale now max=4 min=2"}

    met = [project.send("together", 4) for _ in range(4)]
    assert [result.get(timeout=30) for result in met] == ["met"] * 4
    assert "error" in control(project, "autoscale", max=1, min=2)
