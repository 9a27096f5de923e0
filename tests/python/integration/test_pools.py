"""Every pool does what the prefork pool does; those with several slots do it many at a time."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from celeriac.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded, WorkerLostError

from .conftest import children_of, wait_until

TASKS = """
    import threading
    from contextvars import ContextVar

    left = ContextVar("left", default=None)

    @app.task(name="add")
    def add(x, y):
        return x + y

    @app.task(name="aadd")
    async def aadd(x, y):
        await asyncio.sleep(0.01)
        return x + y

    @app.task(name="own", bind=True)
    def own(self):
        before, first = left.get(), self.request.id
        left.set(first)
        time.sleep(0.02)
        return [first == self.request.id, before, app.current_task.request.id == first]

    @app.task(name="aown", bind=True)
    async def aown(self, seconds=0.2):
        before, first = left.get(), self.request.id
        left.set(first)
        await asyncio.sleep(seconds)
        return [first == self.request.id, before, app.current_task.request.id == first]

    @app.task(name="again", bind=True, max_retries=2)
    def again(self):
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return self.request.retries

    @app.task(name="aagain", bind=True, max_retries=2)
    async def aagain(self):
        await asyncio.sleep(0)
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return self.request.retries

    @app.task(name="boom")
    def boom():
        raise ValueError("boom")

    @app.task(name="aboom")
    async def aboom():
        raise ValueError("boom")

    @app.task(name="leave")
    def leave():
        raise SystemExit(3)

    @app.task(name="aleave")
    async def aleave():
        raise SystemExit(3)

    @app.task(name="spin")
    def spin():
        mark("spinning")
        try:
            while True:
                time.sleep(0.01)
        except SoftTimeLimitExceeded:
            return "cleaned up"

    @app.task(name="aspin")
    async def aspin():
        mark("spinning")
        try:
            while True:
                await asyncio.sleep(0.01)
        except SoftTimeLimitExceeded:
            return "cleaned up"

    @app.task(name="stuck")
    def stuck():
        time.sleep(60)

    @app.task(name="astuck")
    async def astuck():
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    @app.task(name="itself")
    async def itself():
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    @app.task(name="pid")
    def pid():
        return os.getpid()

    @app.task(name="slow", acks_late=True, reject_on_worker_lost=True)
    def slow(number):
        time.sleep(0.02)
        mark("slow", f"{number} ")
        return number

    @app.task(name="together", bind=True)
    def together(self, count):
        mark("met", self.request.id + " ")
        while len((here / "met").read_text().split()) < count:
            time.sleep(0.01)
        return "met"

    @app.task(name="atogether", bind=True)
    async def atogether(self, count):
        mark("met", self.request.id + " ")
        while len((here / "met").read_text().split()) < count:
            await asyncio.sleep(0.01)
        return "met"

    @signals.worker_process_init.connect
    def init(**kwargs):
        mark("init", f"{os.getpid()} ")

    @signals.worker_process_shutdown.connect
    def shutdown(**kwargs):
        mark("shutdown", f"{os.getpid()} ")
    """

SEVERAL = ["threads", "asyncio", "gevent"]


@pytest.fixture(params=SEVERAL)
def pool(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "gevent":
        pytest.importorskip("gevent")
    return name


def asynchronous(pool: str) -> str:
    """The prefix of the tasks that this pool runs best."""
    return "a" if pool == "asyncio" else ""


@pytest.fixture
def worker(project: Any, pool: str) -> Any:
    project.write(TASKS)
    return project.start("-P", pool, "-c", "20")


def test_plain_and_async_tasks_run_and_retry_and_fail_side_by_side(project: Any, worker: Any) -> None:
    results = [project.send(name, number, 1) for number in range(50) for name in ("add", "aadd")]
    retried = [project.send(name) for name in ("again", "aagain")]
    failed = [project.send(name) for name in ("boom", "aboom")]
    left = [project.send(name) for name in ("leave", "aleave")]

    assert [result.get(timeout=30) for result in results] == [n + 1 for n in range(50) for _ in range(2)]
    assert [result.get(timeout=30) for result in retried] == [2, 2]
    for result in failed:
        with pytest.raises(ValueError, match="boom"):
            result.get(timeout=30)
    for result in left:
        with pytest.raises(WorkerLostError, match="SystemExit"):
            result.get(timeout=30)


def test_a_chain_goes_through_plain_and_async_tasks(project: Any, worker: Any) -> None:
    signature = project.client.signature
    chain = signature("add", (1, 2)) | signature("aadd", (3,)) | signature("add", (4,))

    assert chain.apply_async().get(timeout=30) == 10


def test_as_many_run_at_a_time_as_there_are_slots(project: Any, pool: str, worker: Any) -> None:
    results = [project.send(asynchronous(pool) + "together", 20) for _ in range(20)]

    assert [result.get(timeout=30) for result in results] == ["met"] * 20
    assert len({*project.marks("init").split()}) == 1


def test_each_task_sees_its_own_request_and_nothing_that_others_left(project: Any, pool: str, worker: Any) -> None:
    results = [project.send(name) for _ in range(100) for name in ("own",) + ("aown",) * (pool == "asyncio")]

    assert {tuple(result.get(timeout=60)) for result in results} == {(True, None, True)}


def test_a_thousand_coroutines_each_see_their_own_request(project: Any) -> None:
    project.write(TASKS)
    project.start("-P", "asyncio", "-c", "1000")

    results = [project.send("atogether", 1000) for _ in range(1000)]
    owns = [project.send("aown") for _ in range(1000)]

    assert {result.get(timeout=60) for result in results} == {"met"}
    assert {tuple(result.get(timeout=60)) for result in owns} == {(True, None, True)}


def test_the_soft_limit_is_raised_in_one_task_alone(project: Any, pool: str, worker: Any) -> None:
    neighbour = project.send(asynchronous(pool) + "together", 2)
    limited = project.send(asynchronous(pool) + "spin", soft_time_limit=0.3)
    uncaught = project.send(asynchronous(pool) + "together", 1000, soft_time_limit=0.3)

    assert limited.get(timeout=30) == "cleaned up"
    with pytest.raises(SoftTimeLimitExceeded):
        uncaught.get(timeout=30)
    assert neighbour.get(timeout=30) == "met"


def test_the_hard_limit_ends_one_task_alone(project: Any, pool: str, worker: Any) -> None:
    pid = project.send("pid").get(timeout=30)
    limited = project.send(asynchronous(pool) + "together", 1000, time_limit=0.3)

    with pytest.raises(TimeLimitExceeded):
        limited.get(timeout=30)
    project.wait_for_mark("met")
    assert project.send("pid").get(timeout=30) == pid
    assert worker.process.poll() is None


@pytest.mark.parametrize("pool", ["threads", "asyncio"], indirect=True)
def test_a_task_that_cannot_be_ended_costs_its_process_and_its_neighbours_nothing(
    project: Any, pool: str, worker: Any
) -> None:
    pid = project.send("pid").get(timeout=30)
    neighbour = project.send("together", 2)
    limited = project.send(asynchronous(pool) + "stuck", time_limit=0.3)

    with pytest.raises(TimeLimitExceeded):
        limited.get(timeout=30)
    worker.wait_for("is replaced: a request in it does not end")

    assert project.send("pid").get(timeout=30) != pid
    assert project.send("together", 2).get(timeout=30) == "met"
    assert neighbour.get(timeout=30) == "met"


def test_a_running_task_is_terminated_on_request(project: Any, pool: str, worker: Any) -> None:
    result = project.send(asynchronous(pool) + "spin")
    project.wait_for_mark("spinning")

    result.revoke(terminate=True)

    with pytest.raises(TaskRevokedError, match="terminated"):
        result.get(timeout=30)
    assert project.send("add", 1, 1).get(timeout=30) == 2


def test_a_coroutine_that_cancels_itself_fails(project: Any) -> None:
    project.write(TASKS)
    project.start("-P", "asyncio", "-c", "2")

    with pytest.raises(RuntimeError, match="cancelled from within"):
        project.send("itself").get(timeout=30)


def test_a_process_that_has_run_enough_is_replaced_and_says_goodbye(project: Any, pool: str) -> None:
    project.write(TASKS)
    worker = project.start("-P", pool, "-c", "4", "--max-tasks-per-child", "10")

    results = [project.send("slow", number) for number in range(40)]

    assert [result.get(timeout=30) for result in results] == list(range(40))
    wait_until(lambda: len(project.marks("shutdown").split()) >= 3, "processes have left")
    assert worker.stop() == 0
    assert sorted(project.marks("slow").split(), key=int) == [str(number) for number in range(40)]


def test_a_killed_process_loses_nothing_under_late_acknowledgement(project: Any, pool: str) -> None:
    project.write(TASKS)
    project.start("-P", pool, "-c", "4", "--processes", "2")
    results = [project.send("slow", number) for number in range(300)]

    for count in (50, 100):
        wait_until(lambda count=count: len(project.marks("slow").split()) >= count, f"{count} have run")
        os.kill(int(project.marks("init").split()[-1]), signal.SIGKILL)

    assert [result.get(timeout=60) for result in results] == list(range(300))


def test_a_stop_lets_tasks_end(project: Any, pool: str, worker: Any) -> None:
    results = [project.send(asynchronous(pool) + "together", 11) for _ in range(10)]
    wait_until(lambda: len(project.marks("met").split()) == 10, "ten run")

    worker.signal(signal.SIGTERM)
    with open(project.folder / "met", "a") as file:
        file.write("go ")

    assert worker.wait() == 0
    assert [result.get(timeout=30) for result in results] == ["met"] * 10
    assert len(project.marks("shutdown").split()) == 1


def test_autoscale_follows_the_work(project: Any) -> None:
    project.write(TASKS)
    worker = project.start("--autoscale", "6,2")

    results = [project.send("together", 6) for _ in range(6)]

    assert [result.get(timeout=30) for result in results] == ["met"] * 6
    worker.wait_for("Scaling from 2 to ")
    assert len({*project.marks("init").split()}) <= 6
    assert len(children_of(worker.pid)) <= 8
