"""Chords on real workers: each pool, failures, and deaths in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from celeriac.app.chords import start_chord
from celeriac.exceptions import ChordError
from celeriac.utils import uuid

from .conftest import wait_until

TASKS = """
    @app.task(name="part")
    def part(number):
        return number

    @app.task(name="apart")
    async def apart(number):
        await asyncio.sleep(0.001)
        return number

    @app.task(name="late", acks_late=True)
    def late(number):
        mark("late", f"{number} ")
        time.sleep(0.02)
        return number

    @app.task(name="boom")
    def boom():
        raise ValueError("bad value", 42)

    @app.task(name="dies")
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="body")
    def body(values):
        mark("bodies", "x")
        return values

    @app.task(name="errback")
    def errback(request, exc, traceback):
        mark("errback", f"{request.id} {exc!r}")

    @app.task(name="deadly")
    def deadly(request, exc, traceback):
        mark("deadly")
        os.kill(os.getpid(), signal.SIGKILL)
    """


def send_chord(project: Any, header: Sequence[Any], **body_options: Any) -> Any:
    """A chord of these (task, arguments); gives the result of its body, and the ids of its parts."""
    group_id, body_id = uuid(), uuid()
    body = project.client.signature("body", options={"task_id": body_id, "group_id": group_id, **body_options})
    start_chord(project.client, group_id, len(header))
    parts = [
        project.client.send_task(name, args, group_id=group_id, group_index=index, chord=dict(body))
        for index, (name, *args) in enumerate(header)
    ]
    return project.client.AsyncResult(body_id), [part.id for part in parts]


@pytest.mark.parametrize(
    "options",
    [("-c", "2"), ("-P", "threads", "-c", "4"), ("-P", "asyncio", "-c", "8"), ("-P", "solo")],
    ids=lambda options: options[1],
)
def test_every_pool_calls_the_body_with_the_results_in_order(project: Any, options: Sequence[str]) -> None:
    project.write(TASKS)
    project.start(*options)

    result, _ = send_chord(project, [("apart" if number % 2 else "part", number) for number in range(30)])

    assert result.get(timeout=30) == list(range(30))
    assert project.marks("bodies") == "x"


def test_a_failed_part_ends_the_chord_while_others_still_run(project: Any) -> None:
    project.write(TASKS)
    project.start("-c", "1")
    link = project.client.signature("errback")

    result, parts = send_chord(
        project, [("boom",), *(("part", number) for number in range(3))], link_error=[dict(link)]
    )

    expected = f"Dependency {parts[0]} raised ValueError('bad value', 42)"
    with pytest.raises(ChordError) as raised:
        result.get(timeout=30)
    assert str(raised.value) == expected
    assert project.wait_for_mark("errback", "x" * 60) == f"{result.id} ChordError({expected!r})"
    wait_until(lambda: all(project.state(part) == "SUCCESS" for part in parts[1:]), "the others ended as usual")
    assert project.marks("bodies") == ""


def test_a_part_whose_process_dies_fails_the_chord(project: Any) -> None:
    project.write(TASKS)
    project.start("-c", "2")

    result, parts = send_chord(project, [("part", 1), ("dies",)])

    with pytest.raises(ChordError, match=f"Dependency {parts[1]} raised WorkerLostError"):
        result.get(timeout=30)


def test_a_worker_that_is_killed_leaves_its_chords_to_the_next_one(project: Any) -> None:
    project.write(TASKS)
    worker = project.start("-c", "2")
    sent = [send_chord(project, [("late", number) for number in range(20)])[0] for _ in range(5)]
    project.wait_for_mark("late", "x" * 60)

    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    project.start("-c", "2")

    for result in sent:
        assert result.get(timeout=30) == list(range(20))


def test_error_links_that_kill_every_process_do_not_go_on_for_ever(project: Any) -> None:
    project.write(TASKS)
    worker = project.start("-c", "1")
    link = project.client.signature("deadly")

    result, _ = send_chord(project, [("boom",)], link_error=[dict(link)])

    worker.wait_for("it is left as it is")
    assert project.marks("deadly") == "x" * 6
    assert result.state == "PENDING"
    # Others are served as before.
    well, _ = send_chord(project, [("part", 7)])
    assert well.get(timeout=30) == [7]
