"""Batch tasks: many calls in one run, on every broker and pool, and each call with an end of its own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.exceptions import Reject, TimeLimitExceeded, WorkerLostError

from .conftest import Project, wait_until

TASKS = """
    import json, threading
    from celeriac import Batch

    def note(requests):
        mark("sizes", json.dumps([os.getpid(), len(requests)]) + "\\n")

    @app.task(name="insert", batch=Batch(max_size=100, max_wait=1.0))
    def insert(requests):
        note(requests)
        return [request.args[0] * 2 for request in requests]

    @app.task(name="ainsert", batch=Batch(max_size=10, max_wait=0.5))
    async def ainsert(requests):
        note(requests)
        await asyncio.sleep(0.01)
        return {request.id: request.kwargs["n"] for request in requests}

    @app.task(name="ends", batch=Batch(max_size=10, max_wait=0.5), max_retries=1, default_retry_delay=0)
    def ends(requests):
        note(requests)
        for request in requests:
            what = request.args[0]
            if what == "ack":
                request.ack("acked")
            elif what == "fail":
                request.fail(ValueError("no"))
            elif what == "retry" and request.retries == 0:
                request.retry(countdown=0)
            elif what == "dead":
                request.dead_letter("bad row")
        return "nobody's"

    @app.task(name="twice", batch=Batch(max_size=10, max_wait=0.3), max_retries=1, default_retry_delay=0)
    def twice(requests):
        note(requests)
        first = requests[0]
        if first.retries == 0:
            requests[1].ack("done before")
            raise KeyError("first time")
        return [request.retries for request in requests]

    @app.task(name="never", batch=Batch(max_size=10, max_wait=0.1), throws=(KeyError,))
    def never(requests):
        raise KeyError("as expected")

    @app.task(name="wrong", batch=Batch(max_size=10, max_wait=0.1))
    def wrong(requests):
        mark("wrong")
        return [1, 2, 3]

    @app.task(name="slow", batch=Batch(max_size=2, max_wait=0.1), acks_late=True, reject_on_worker_lost=True)
    def slow(requests):
        mark("began")
        mark("pids", f"{os.getpid()}\\n")
        done = [request for request in requests if request.args[0] == "first"]
        for request in done:
            request.ack("kept")
        mark("acked")
        while not (here / "go").exists():
            time.sleep(0.01)
        return [request.args[0] for request in requests]

    @app.task(name="soft", batch=Batch(max_size=2, max_wait=0.1), soft_time_limit=0.3, max_retries=0)
    def soft(requests):
        try:
            while True:
                time.sleep(0.01)
        except SoftTimeLimitExceeded:
            return ["cleaned up"] * len(requests)

    @app.task(name="hard", batch=Batch(max_size=2, max_wait=0.1), time_limit=0.5)
    def hard(requests):
        requests[0].ack("in time")
        while True:
            time.sleep(0.01)

    @app.task(name="seen", bind=True, batch=Batch(max_size=2, max_wait=0.1))
    def seen(self, requests):
        request = requests[0]
        return [[self.name, request.headers.get("tenant"), request.request.task, request.settled] for request in requests]

    @app.task(name="add")
    def add(x, y):
        return x + y
"""


@pytest.fixture(params=["sqlite", "redis", "rabbitmq"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """A project on each broker; results of RabbitMQ's are on Redis."""
    match request.param:
        case "sqlite":
            made = Project(tmp_path)
        case "redis":
            made = Project(tmp_path, request.getfixturevalue("redis_url"))
        case _:
            made = Project(tmp_path, request.getfixturevalue("rabbitmq_url"), request.getfixturevalue("redis_url"))
    yield made
    made.close()


def sizes(project: Project) -> list[tuple[int, int]]:
    """Process and size of each batch that ran."""
    return [tuple(json.loads(line)) for line in project.marks("sizes").splitlines()]


def delay_all(project: Project, name: str, *calls: Any) -> list[Any]:
    return [project.send(name, call) for call in calls]


def test_a_thousand_calls_make_ten_batches_in_one_child_and_each_has_its_result(place: Project) -> None:
    place.write(TASKS)
    signatures = (place.client.signature("insert", (number,)) for number in range(1000))
    results = place.client.send_many(signatures)

    place.start("-c", "1")

    assert [result.get(timeout=30) for result in results] == [2 * number for number in range(1000)]
    ran = sizes(place)
    assert sum(size for _, size in ran) == 1000
    assert max(size for _, size in ran) == 100
    assert len(ran) <= 12, ran
    assert len({pid for pid, _ in ran}) == 1
    wait_until(lambda: place.queue().get("claimed", 0) == 0, "all are acknowledged")


def test_a_lone_call_runs_when_it_has_waited_long_enough(place: Project) -> None:
    place.write(TASKS)
    place.start("-c", "2")

    result = place.send("insert", 21)

    assert result.get(timeout=20) == 42
    assert [size for _, size in sizes(place)] == [1]


def test_each_request_ends_as_the_function_says(place: Project) -> None:
    place.write(TASKS)
    plain, acked, failed, retried, dead = delay_all(place, "ends", "plain", "ack", "fail", "retry", "dead")
    worker = place.start("-c", "1")

    assert plain.get(timeout=20) is None
    assert acked.get(timeout=20) == "acked"
    with pytest.raises(ValueError, match="no"):
        failed.get(timeout=20)
    assert retried.get(timeout=20) is None
    with pytest.raises(Reject):
        dead.get(timeout=20)
    assert [size for _, size in sizes(place)] == [5, 1]
    letters = wait_until(lambda: place.client.client.dead_letters(), "the dead letter")
    assert [(letter["headers"]["id"], letter["reason"], letter["detail"]) for letter in letters] == [
        (dead.id, "rejected", "bad row")
    ]
    assert worker.stop() == 0


def test_what_a_raising_function_has_not_ended_is_tried_again_and_then_fails(project: Project) -> None:
    project.write(TASKS)
    first, second, third = delay_all(project, "twice", 1, 2, 3)
    project.start("-c", "1")

    assert [result.get(timeout=20) for result in (first, second, third)] == [1, "done before", 1]
    assert [size for _, size in sizes(project)] == [3, 2]
    with pytest.raises(KeyError, match="as expected"):
        project.send("never", 1).get(timeout=20)


def test_a_list_of_the_wrong_length_fails_all_and_repeats_nothing(project: Project) -> None:
    project.write(TASKS)
    results = delay_all(project, "wrong", 1, 2)
    project.start("-c", "1")

    for result in results:
        with pytest.raises(ValueError, match="3 results for 2 requests"):
            result.get(timeout=20)
    assert project.marks("wrong") == "x"


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "gevent", "solo"])
def test_every_pool_runs_a_batch_as_a_whole(project: Project, pool: str) -> None:
    # A hard limit needs processes.
    project.write(TASKS.replace(", time_limit=0.5", ""))
    results = [project.client.send_task("ainsert", kwargs={"n": number}) for number in range(20)]
    doubled = delay_all(project, "insert", *range(150))

    worker = project.start("-P", pool, "-c", "1" if pool == "solo" else "4")

    assert [result.get(timeout=20) for result in results] == list(range(20))
    assert [result.get(timeout=20) for result in doubled] == [2 * number for number in range(150)]
    assert sorted(size for _, size in sizes(project)) == [10, 10, 50, 100]
    assert worker.stop() == 0


def test_what_was_acknowledged_in_a_batch_does_not_run_again_when_its_process_dies(project: Project) -> None:
    project.write(TASKS)
    first, second = delay_all(project, "slow", "first", "second")
    project.start("-c", "1")
    project.wait_for_mark("acked")
    assert first.get(timeout=20) == "kept"

    os.kill(int(project.marks("pids")), signal.SIGKILL)
    project.wait_for_mark("began", "xx")
    (project.folder / "go").touch()

    assert second.get(timeout=20) == "second"
    assert first.get() == "kept"
    assert project.marks("began") == "xx"


def test_a_worker_that_is_killed_loses_none_of_a_batch(project: Project) -> None:
    project.write(TASKS)
    results = delay_all(project, "slow", "one", "two")
    worker = project.start("-c", "1", "-n", "same@host")
    project.wait_for_mark("began")

    worker.kill()
    (project.folder / "go").touch()
    project.start("-c", "1", "-n", "same@host")

    assert [result.get(timeout=30) for result in results] == ["one", "two"]


def test_a_warm_stop_gives_back_what_was_gathered(project: Project) -> None:
    project.write(TASKS.replace("max_size=100, max_wait=1.0", "max_size=100, max_wait=600"))
    delay_all(project, "insert", *range(7))
    worker = project.start("-c", "1")
    wait_until(lambda: project.queue().get("claimed") == 7, "they are gathered")

    assert worker.stop() == 0

    assert project.queue()["ready"] == 7
    assert sizes(project) == []


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_time_limits_are_those_of_the_whole_batch(project: Project, pool: str) -> None:
    project.write(TASKS)
    soft, hard = delay_all(project, "soft", 1, 2), delay_all(project, "hard", 1, 2)
    project.start("-P", pool, "-c", "2")

    assert [result.get(timeout=20) for result in soft] == ["cleaned up"] * 2
    assert hard[0].get(timeout=20) == "in time"
    with pytest.raises(TimeLimitExceeded):
        hard[1].get(timeout=20)


def test_a_process_that_leaves_in_a_batch_fails_what_it_has_not_ended(project: Project) -> None:
    project.write(
        TASKS
        + """
    @app.task(name="leaves", batch=Batch(max_size=2, max_wait=0.1))
    def leaves(requests):
        requests[0].ack("before")
        raise SystemExit(3)
"""
    )
    for pool in ("prefork", "threads"):
        first, second = delay_all(project, "leaves", 1, 2)
        worker = project.start("-P", pool, "-c", "1")
        assert first.get(timeout=20) == "before"
        with pytest.raises(WorkerLostError):
            second.get(timeout=20)
        assert worker.stop() == 0


def test_links_headers_and_the_task_itself_are_each_requests_own(project: Project) -> None:
    project.write(TASKS)
    linked = project.client.signature("add", (1,))
    result = project.client.send_task("insert", (20,), link=linked, task_id="linked")
    told = project.client.send_task("seen", headers={"tenant": "a"})
    chained = (project.client.signature("insert", (3,)) | project.client.signature("add", (1,))).apply_async()
    header = [project.client.signature("insert", (number,)) for number in (1, 2)]
    from celeriac import chord

    summed = chord(header, project.client.signature("celery.accumulate"), app=project.client).apply_async()
    project.start("-c", "1")

    assert result.get(timeout=20) == 40
    wait_until(lambda: result.children, "its link is told of")
    assert result.children[0].get(timeout=20) == 41
    assert told.get(timeout=20) == ["seen", "a", "seen", False]
    assert chained.get(timeout=20) == 7
    assert summed.get(timeout=20) == [[2, 4]]


def test_middleware_is_told_of_each_request(project: Project) -> None:
    project.write(
        TASKS
        + """
    from celeriac.app.middleware import Middleware

    class Notes(Middleware):
        def before_task(self, run):
            if run.args[0] == "stop":
                raise ValueError("not this one")
            mark("told", f"before {run.args[0]}\\n")

        def after_task(self, run):
            mark("told", f"after {run.args[0]} {run.state}\\n")

        def on_failure(self, run, exception):
            mark("told", f"failed {run.args[0]} {exception}\\n")

        def on_dead_letter(self, run, exception):
            mark("told", f"dead {run.args[0]} {exception}\\n")

    @app.task(name="hooked", batch=Batch(max_size=4, max_wait=1.0), middleware=[Notes()])
    def hooked(requests):
        mark("told", f"{len(requests)} run\\n")
        requests[1].fail(ValueError("bad"))
        requests[2].dead_letter("worse")
"""
    )
    results = delay_all(project, "hooked", "one", "two", "three", "stop")
    project.start("-c", "1")

    assert results[0].get(timeout=20) is None
    for result in results[1:]:
        with pytest.raises((ValueError, Reject)):
            result.get(timeout=20)
    expected = {"after one SUCCESS", "after two FAILURE", "failed two bad", "dead three worse"}
    wait_until(lambda: expected <= set(project.marks("told").splitlines()), "all is told")
    lines = project.marks("told").splitlines()
    assert lines[:4] == ["before one", "before two", "before three", "3 run"]


def test_a_batch_task_that_must_not_run_twice_is_gathered_all_the_same(place: Project) -> None:
    place.write(
        TASKS
        + """
    @app.task(name="once", batch=Batch(max_size=50, max_wait=1.0), at_most_once=True)
    def once(requests):
        note(requests)
        return [request.args[0] for request in requests]
"""
    )
    place.client.task(name="once", at_most_once=True)(lambda number: number)
    results = place.client.tasks["once"].delay_many((number,) for number in range(100))
    place.start("-c", "1")

    assert [result.get(timeout=30) for result in results] == list(range(100))
    ran = [size for _, size in sizes(place)]
    assert sum(ran) == 100
    assert len(ran) <= 6, ran
