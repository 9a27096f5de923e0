"""Tasks are run, and what they give comes back."""

from __future__ import annotations

from typing import Any

import pytest

TASKS = """
    @app.task(name="add")
    def add(x, y=0):
        return x + y

    @app.task(name="echo")
    def echo(*args, **kwargs):
        return [list(args), kwargs]

    @app.task(name="boom")
    def boom():
        raise ValueError("bad value", 42)

    @app.task(name="unserializable")
    def unserializable():
        return object()

    @app.task(name="quiet", ignore_result=True)
    def quiet():
        mark("quiet")

    @app.task(name="says")
    def says():
        print("printed by a task")

    @app.task(name="spawn", bind=True)
    def spawn(self):
        return add.delay(1, 1).id
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "2")


def test_results_come_back(project: Any, worker: Any) -> None:
    results = [project.send("add", n, n) for n in range(50)]

    assert [result.get(timeout=30) for result in results] == [n + n for n in range(50)]
    assert all(result.successful() for result in results)


def test_values_travel_both_ways(project: Any, worker: Any) -> None:
    values = ["text ☃", 1.5, None, True, [1, [2]], {"k": [None]}, 2**70]

    assert project.send("echo", *values).get(timeout=30) == [values, {}]


def test_a_failure_comes_back_as_the_exception_that_was_raised(project: Any, worker: Any) -> None:
    result = project.send("boom")

    with pytest.raises(ValueError, match="bad value") as caught:
        result.get(timeout=30)
    assert caught.value.args == ("bad value", 42)
    assert result.state == "FAILURE"
    assert "ValueError: ('bad value', 42)" in result.traceback
    worker.wait_for(rf"ERROR/ForkPoolWorker-\d+\] Task boom\[{result.id}\] raised unexpected: ValueError")


def test_a_result_that_cannot_be_encoded_is_a_failure(project: Any, worker: Any) -> None:
    with pytest.raises(Exception, match="not JSON serializable"):
        project.send("unserializable").get(timeout=30)


def test_arguments_that_do_not_fit_are_a_failure(project: Any, worker: Any) -> None:
    with pytest.raises(TypeError, match="positional arguments"):
        project.send("add", 1, 2, 3).get(timeout=30)


def test_ignored_results_are_not_stored(project: Any, worker: Any) -> None:
    result = project.send("quiet", ignore_result=True)

    worker.wait_for(rf"quiet\[{result.id}\] succeeded")
    project.send("add", 1, 1).get(timeout=30)

    assert project.marks("quiet") == "x"
    assert project.state(result.id) == "PENDING"


def test_an_unknown_task_fails_with_not_registered(project: Any, worker: Any) -> None:
    from celeriac.exceptions import NotRegistered

    with pytest.raises(NotRegistered):
        project.send("no.such.task").get(timeout=30)
    assert project.send("add", 1, 1).get(timeout=30) == 2


def test_what_a_task_prints_goes_to_the_log(project: Any, worker: Any) -> None:
    project.send("says").get(timeout=30)

    worker.wait_for(r"WARNING/ForkPoolWorker-\d+\] printed by a task")


def test_log_lines_are_celerys(project: Any, worker: Any) -> None:
    result = project.send("add", 2, 3)
    result.get(timeout=30)

    worker.wait_for(
        rf"^\[\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}}: INFO/ForkPoolWorker-\d+\] "
        rf"Task add\[{result.id}\] succeeded in [\d.e-]+s: 5$"
    )


def test_a_task_can_send_tasks(project: Any, worker: Any) -> None:
    parent = project.send("spawn")

    child = parent.get(timeout=30)

    assert project.client.AsyncResult(child).get(timeout=30) == 2
    assert [one.id for one in parent.children] == [child]
