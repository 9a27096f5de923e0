"""Results of many tasks, with a real worker, on the embedded broker and on Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.canvas import chain, chord, group
from celeriac.exceptions import ChordError
from celeriac.result import GroupResult, ResultSet
from celeriac.result.picture import LOOKS, picture_of_result

from .conftest import Project, wait_until

TASKS = """
    @app.task(name="add")
    def add(x, y):
        return x + y

    @app.task(name="boom")
    def boom():
        raise ValueError("broken")

    @app.task(name="held")
    def held():
        mark("held")
        while not (here / "go").exists():
            time.sleep(0.005)
        return "went"

    @app.task(name="joins")
    def joins(**options):
        from celeriac.result import ResultSet
        results = ResultSet([app.send_task("add", (n, 1)) for n in range(3)])
        return results.get(timeout=20, **options)

    @app.task(name="gives_results")
    def gives_results():
        from celeriac.result import GroupResult
        return GroupResult("given", [app.send_task("add", (n, 1)) for n in range(2)])
    """


@pytest.fixture(params=["embedded", "redis"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    project = Project(tmp_path, broker=url)
    project.write(TASKS, result_extended=True)
    project.start("-c", "2")
    yield project
    project.close()


def results_of(project: Project, *calls: tuple[Any, ...]) -> ResultSet:
    return project.client.ResultSet([project.send(*call) for call in calls])


def test_many_results_come_in_order_with_one_wait(running: Project, figure: Callable[[str], None]) -> None:
    results = running.client.ResultSet(
        running.client.send_many(running.client.signature("add", args=(n, 1)) for n in range(2_000))
    )

    began = time.perf_counter()
    values = results.get(timeout=60)
    took = time.perf_counter() - began

    assert values == list(range(1, 2_001))
    assert results.completed_count() == 2_000
    figure(f"2,000 results of one set on {running.url.partition(':')[0]}: {took:.2f} s after they were sent")


def test_the_first_failure_to_arrive_is_raised_while_others_run(running: Project) -> None:
    results = results_of(running, ("held",), ("boom",), ("add", 1, 1))

    with pytest.raises(ValueError, match="broken"):
        results.get(timeout=30)

    assert not results.ready()
    assert results.failed()
    (running.folder / "go").touch()
    value, error, other = results.get(timeout=30, propagate=False) or ()
    assert (value, type(error), other) == ("went", ValueError, 2)
    assert (results.ready(), results.successful(), results.completed_count()) == (True, False, 2)


def test_coroutines_await_sets_and_walk_them_as_they_end(running: Project) -> None:
    async def main() -> tuple[Any, list[Any]]:
        fast = results_of(running, ("add", 1, 1), ("add", 2, 2))
        slow = results_of(running, ("held",), ("add", 3, 3))
        order = []
        async for result in slow:
            order.append(result.result)
            (running.folder / "go").touch()
        return await fast, order

    assert asyncio.run(asyncio.wait_for(main(), 60)) == ([2, 4], [6, "went"])


def test_a_saved_group_is_restored_elsewhere_and_deleted(running: Project) -> None:
    GroupResult("saved", results_of(running, ("add", 1, 1), ("add", 2, 2)).results, app=running.client).save()

    with type(running.client)("elsewhere", broker=running.url, backend=running.url, set_as_current=False) as other:
        restored = other.GroupResult.restore("saved")
        assert restored.get(timeout=30) == [2, 4]
        restored.forget()
        assert not restored.ready()
        restored.delete()

    assert running.client.GroupResult.restore("saved") is None
    assert running.state(restored[0].id) == "PENDING"


def test_joining_inside_a_task_is_refused_unless_it_is_asked_for(running: Project) -> None:
    with pytest.raises(RuntimeError, match="within a task"):
        running.send("joins").get(timeout=30)

    assert running.client.send_task("joins", kwargs={"disable_sync_subtasks": False}).get(timeout=30) == [1, 2, 3]


def test_a_returned_group_is_stored_as_its_tuple_and_read_again(running: Project) -> None:
    from celeriac.result import result_from_tuple

    group = result_from_tuple(running.send("gives_results").get(timeout=30), running.client)

    assert isinstance(group, GroupResult)
    assert group.get(timeout=30) == [1, 2]


def test_a_group_that_was_sent_is_awaited_saved_and_restored(running: Project) -> None:
    add = running.client.signature("add")
    result = group((add.clone((n, 1)) for n in range(20)), app=running.client).apply_async()
    result.save()

    async def main() -> Any:
        return await asyncio.wait_for(running.client.GroupResult.restore(result.id).aget(), 30)

    assert asyncio.run(main()) == list(range(1, 21))
    assert result == running.client.GroupResult.restore(result.id)
    assert (result.successful(), result.completed_count()) == (True, 20)


def test_the_failure_of_a_header_is_raised_for_the_body(running: Project) -> None:
    add = running.client.signature("add")
    header = [add.clone((1, 1)), running.client.signature("boom")]
    result = chord(header, running.client.signature("add", args=(1,)), app=running.client).apply_async()

    with pytest.raises(ValueError, match="broken"):
        result.get(timeout=30)
    with pytest.raises(ChordError, match="broken"):
        result.get(timeout=30, follow_parents=False)
    assert isinstance(result.parent, GroupResult)
    assert result.parent.failed()


def test_a_chain_that_ran_is_drawn_with_names_and_states(running: Project) -> None:
    steps = chain(
        running.client.signature("add", args=(1, 1)),
        running.client.signature("boom", immutable=True),
        app=running.client,
    )
    result = steps.apply_async()
    with pytest.raises(ValueError, match="broken"):
        result.get(timeout=30)

    first = running.client.AsyncResult(result.parent.id)
    wait_until(lambda: first.children, "the first has told what it has sent")
    picture = picture_of_result(first, running.client)

    assert picture.arrows == [(first.id, result.id)]
    assert [picture.look(key) for key in (first.id, result.id)] == [LOOKS["SUCCESS"], LOOKS["FAILURE"]]
    assert picture.lines(result.id)[0] == "boom"
    assert [node.id for _, node in first.iterdeps()] == [first.id, result.id]
