"""Chains, links and error links."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.canvas import chain

TASKS = """
    @app.task(name="add")
    def add(x, y):
        return x + y

    @app.task(name="boom")
    def boom(*args):
        raise ValueError("broken link")

    @app.task(name="note")
    def note(value):
        mark("notes", f"{value} ")

    @app.task(name="errback")
    def errback(request, exc, traceback):
        mark("errback", f"{request.id} {exc}")

    @app.task(name="errback_old")
    def errback_old(task_id):
        mark("errback_old", task_id)
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "2")


def signature(project: Any, name: str, *args: Any, **options: Any) -> Any:
    return project.client.signature(name, args=args, **options)


def test_each_step_gets_the_result_of_the_one_before(project: Any, worker: Any) -> None:
    steps = chain(*(signature(project, "add", *args) for args in ((1, 1), (10,), (100,))), app=project.client)

    result = steps.apply_async()

    assert result.get(timeout=30) == 112
    assert result.parent.get(timeout=30) == 12
    assert result.parent.parent.get(timeout=30) == 2


def test_a_failing_step_fails_all_later_ones(project: Any, worker: Any) -> None:
    steps = chain(
        signature(project, "add", 1, 1),
        signature(project, "boom"),
        signature(project, "add", 1),
        signature(project, "note"),
        app=project.client,
    )

    result = steps.apply_async()

    with pytest.raises(ValueError, match="broken link"):
        result.get(timeout=30)
    assert result.state == result.parent.state == "FAILURE"
    assert result.parent.parent.parent.get(timeout=30) == 2
    assert project.marks("notes") == ""


def test_links_are_sent_with_the_result(project: Any, worker: Any) -> None:
    project.send("add", 2, 3, link=[signature(project, "note"), signature(project, "note")])

    assert project.wait_for_mark("notes", "5 5 ") == "5 5 "


def test_error_links_of_both_kinds_are_called(project: Any, worker: Any) -> None:
    result = project.send("boom", link_error=[signature(project, "errback"), signature(project, "errback_old")])

    assert project.wait_for_mark("errback_old", result.id) == result.id
    assert project.wait_for_mark("errback", f"{result.id} broken link") == f"{result.id} broken link"


def test_a_chain_sent_in_protocol_1_runs_to_its_end(project: Any, worker: Any) -> None:
    project.client.conf.task_protocol = 1
    steps = chain(*(signature(project, "add", *args) for args in ((1, 1), (10,), (100,))), app=project.client)

    assert steps.apply_async().get(timeout=30) == 112
