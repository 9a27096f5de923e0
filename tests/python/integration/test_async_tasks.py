"""`async def` tasks on the prefork pool."""

from __future__ import annotations

from typing import Any

import pytest

TASKS = """
    @app.task(name="gather")
    async def gather(n):
        async def one(x):
            await asyncio.sleep(0.01)
            return x
        return await asyncio.gather(*(one(x) for x in range(n)))

    @app.task(name="loop")
    async def loop():
        return [os.getpid(), id(asyncio.get_running_loop())]

    @app.task(name="boom", bind=True, max_retries=1)
    async def boom(self):
        await asyncio.sleep(0)
        if self.request.retries:
            raise ValueError("second time")
        raise self.retry(countdown=0)

    @app.task(name="nested")
    async def nested():
        result = await gather.adelay(3)
        return result.id
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "1")


def test_coroutines_run_concurrently_within_a_task(project: Any, worker: Any) -> None:
    assert project.send("gather", 20).get(timeout=30) == list(range(20))


def test_the_loop_is_kept_between_tasks(project: Any, worker: Any) -> None:
    assert project.send("loop").get(timeout=30) == project.send("loop").get(timeout=30)


def test_failures_and_retries_are_those_of_plain_tasks(project: Any, worker: Any) -> None:
    with pytest.raises(ValueError, match="second time"):
        project.send("boom").get(timeout=30)


def test_an_async_task_can_send_without_blocking_its_loop(project: Any, worker: Any) -> None:
    child = project.send("nested").get(timeout=30)

    assert project.client.AsyncResult(child).get(timeout=30) == [0, 1, 2]
