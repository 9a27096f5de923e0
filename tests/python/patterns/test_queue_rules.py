"""Queues with defaults, pauses, and results of which only the newest are kept: real workers on every broker."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest

from celeriac import Celery

from .conftest import Pattern, wait_until

TASKS = """
import os
import time
from pathlib import Path

from celeriac import Backoff, Celery, Queue, QueueDefaults

app = Celery("tasks", broker=os.environ["BROKER"], backend=os.environ["RESULT_BACKEND"])


def soon(attempt, exc):
    with open("waits", "a") as file:
        file.write(f"{attempt} {exc!r}\\n")
    return 0.01


app.conf.update(
    worker_prefetch_multiplier=20,
    task_queues=[Queue("celery"), Queue("images", defaults={"priority": 4, "soft_time_limit": 30}), Queue("mail")],
    task_queue_defaults={
        "images": QueueDefaults(max_retries=2, backoff=soon, dead_letter=True, priority=4),
        "mail": {"keep_successes": 2, "keep_failures": 1},
    },
)


@app.task(name="fails", bind=True)
def fails(self):
    raise ValueError(f"try {self.request.retries}")


@app.task(name="once", bind=True, max_retries=0)
def once(self):
    raise ValueError(f"try {self.request.retries}")


@app.task(name="shows", bind=True)
def shows(self):
    return self.request.delivery_info["priority"]


@app.task(name="mails")
def mails(n):
    if n < 0:
        raise ValueError("no such number")
    return n


@app.task(name="own", keep_successes=1, result_expires=3600)
def own(n):
    return n


@app.task(name="holds")
def holds():
    Path("held").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    return "held"
"""


@pytest.fixture
def app(pattern: Pattern) -> Any:
    (pattern.folder / "tasks.py").write_text(dedent(TASKS))
    made = Celery("tasks", broker=pattern.broker, backend=pattern.backend, set_as_current=False)
    yield made
    made.close()


def test_a_queue_says_how_often_its_tasks_are_tried_and_what_becomes_of_them(pattern: Pattern, app: Any) -> None:
    pattern.start_worker("tasks", "-c", "1")

    failing, once = app.send_task("fails", queue="images"), app.send_task("once", queue="images")
    elsewhere = app.send_task("fails")
    for result, tries in ((failing, 2), (once, 0), (elsewhere, 0)):
        with pytest.raises(ValueError, match=f"try {tries}"):
            result.get(timeout=30)

    assert (pattern.folder / "waits").read_text().splitlines() == ["1 ValueError('try 0')", "2 ValueError('try 1')"]
    letters = wait_until(lambda: found if len(found := app.dead_letters.list()) == 2 else None, "dead letters")
    assert {letter.task_id: letter.attempts for letter in letters} == {failing.id: 3, once.id: 1}
    app.conf.task_queue_defaults = {"images": {"priority": 4}}
    assert app.send_task("shows", queue="images").get(timeout=30) == 4
    assert app.send_task("shows", queue="images", priority=2).get(timeout=30) == 2


def test_only_the_newest_results_are_kept_by_queue_and_by_task(pattern: Pattern, app: Any) -> None:
    pattern.start_worker("tasks", "-c", "1")
    good = [app.send_task("mails", (n,), queue="mail") for n in range(4)]
    bad = [app.send_task("mails", (-n,), queue="mail") for n in (1, 2)]
    own = [app.send_task("own", (n,)) for n in range(3)]
    other = app.send_task("mails", (1,))
    assert own[-1].get(timeout=30) == 2
    assert other.get(timeout=30) == 1
    with pytest.raises(ValueError, match="no such number"):
        bad[-1].get(timeout=30)

    states = [[app.AsyncResult(one.id).state for one in some] for some in (good, bad, own, [other])]

    assert states == [
        ["PENDING", "PENDING", "SUCCESS", "SUCCESS"],
        ["PENDING", "FAILURE"],
        ["PENDING", "PENDING", "SUCCESS"],
        ["SUCCESS"],
    ]


def test_a_paused_queue_stays_paused_over_a_restart_until_it_is_resumed(pattern: Pattern, app: Any) -> None:
    first = pattern.start_worker("tasks", "-c", "1", "-n", "first@here")
    running = app.send_task("holds", queue="images")
    wait_until((pattern.folder / "held").exists, "it runs")
    taken = [app.send_task("shows", queue="images") for _ in range(3)]
    inspect = app.control.inspect(timeout=10, limit=1)
    reserved = lambda: (inspect.reserved() or {}).get("first@here", [])  # noqa: E731
    wait_until(lambda: len(reserved()) == 3, "they are taken")

    pattern.celeriac("-A", "tasks", "control", "pause_queue", "images")

    wait_until(lambda: not reserved(), "what has not begun goes back")
    assert inspect.paused() == {"first@here": ["images"]}
    late = app.send_task("shows", queue="images")
    # What runs goes on, and so do other queues.
    (pattern.folder / "go").touch()
    assert running.get(timeout=30) == "held"
    assert app.send_task("mails", (1,)).get(timeout=30) == 1
    assert first.stop() == 0

    second = pattern.start_worker("tasks", "-c", "1", "-n", "second@here")
    assert inspect.paused() == {"second@here": ["images"]}
    assert app.send_task("mails", (2,)).get(timeout=30) == 2
    assert [one.state for one in (*taken, late)] == ["PENDING"] * 4

    app.control.resume_queue("images")

    for one in (*taken, late):
        one.get(timeout=30)
        assert one.state == "SUCCESS"
    assert inspect.paused() == {"second@here": []}
    assert second.stop() == 0
