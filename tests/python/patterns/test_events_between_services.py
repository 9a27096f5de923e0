"""Events between services, with workers as they are started by users; and the stream of what happens to tasks."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import pytest

from celeriac.app.base import Celery
from celeriac.app.heard import TaskEvent, TaskStream
from celeriac.exceptions import ImproperlyConfigured

from .conftest import Pattern, wait_until

HEAD = """
    import os
    from celeriac import Celery

    app = Celery(__name__, broker=os.environ["BROKER"], backend=os.environ["RESULT_BACKEND"])

    def mark(name, text):
        # One write: lines of several processes stay whole.
        with open(f"{__name__}.{name}", "a") as file:
            file.write(f"{text}\\n")
"""
SHOP = """
    @app.on_event("order.*", "order.created")
    def count(event):
        mark("count", event.id)

    @app.on_event("order.created", bind=True, autoretry_for=(OSError,), retry_kwargs={"countdown": 0.05})
    def flaky(self, event):
        mark("flaky", event.id)
        if self.request.retries == 0:
            raise OSError("not yet")

    @app.on_event("bill.sent")
    def broken(event):
        raise ValueError("broken for good")
"""
MAIL = """
    @app.on_event("order.#")
    async def send(event):
        mark("send", event.id)
"""


class Services:
    """Services of one test, and a program that emits and handles nothing."""

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.client = Celery("till", broker=pattern.broker, backend=pattern.backend, set_as_current=False)

    def write(self, name: str, text: str) -> None:
        (self.pattern.folder / f"{name}.py").write_text(dedent(HEAD) + dedent(text))

    def marks(self, name: str) -> list[str]:
        path = self.pattern.folder / name
        return path.read_text().split() if path.exists() else []

    def wait_for(self, name: str, count: int) -> list[str]:
        wait_until(lambda: len(self.marks(name)) >= count, f"{count} lines in {name}, not {len(self.marks(name))}")
        return self.marks(name)


@pytest.fixture
def services(pattern: Pattern) -> Iterator[Services]:
    made = Services(pattern)
    yield made
    made.client.close()


def test_a_service_that_is_down_gets_every_event_once_when_it_comes_back(services: Services) -> None:
    services.write("shop", SHOP)
    services.write("mail", MAIL)
    shop = services.pattern.start_worker("shop", "-c", "1", "-n", "shop@h")
    mail = services.pattern.start_worker("mail", "-c", "1", "-n", "mail@h")
    assert mail.stop() == 0

    created = [services.client.emit("order.created", {"number": number}).id for number in range(30)]
    nested = services.client.emit("order.line.added").id
    services.client.emit("nobody.cares")

    # Shop does not wait for mail.
    services.wait_for("shop.count", 30)
    services.wait_for("shop.flaky", 60)
    assert services.marks("mail.send") == []
    mail = services.pattern.start_worker("mail", "-c", "1", "-n", "mail@h")
    services.wait_for("mail.send", 31)
    assert (mail.stop(), shop.stop()) == (0, 0)

    assert sorted(services.marks("mail.send")) == sorted([*created, nested])
    assert sorted(services.marks("shop.count")) == sorted(created), "a handler that is tried again repeats no other"
    assert Counter(services.marks("shop.flaky")) == dict.fromkeys(created, 2)


def test_a_handler_that_fails_for_good_leaves_a_dead_letter_and_its_neighbours_alone(services: Services) -> None:
    services.write(
        "shop",
        SHOP
        + """
    @app.on_event("bill.*")
    def note(event):
        mark("note", event.data)
""",
    )
    worker = services.pattern.start_worker("shop", "-c", "1")

    services.client.emit("bill.sent", "first")
    services.client.emit("bill.sent", "second")

    assert services.wait_for("shop.note", 2) == ["first", "second"]
    letters = wait_until(
        lambda: len(found := services.client.client.dead_letters(None)) == 2 and found, "two dead letters"
    )
    assert [letter["headers"]["task"] for letter in letters] == ["shop.broken", "shop.broken"]
    assert {letter["reason"] for letter in letters} == {"rejected"}
    assert worker.stop() == 0


def test_a_deploy_binds_before_the_first_worker_starts_and_takes_old_patterns_away(services: Services) -> None:
    services.write("shop", SHOP)
    assert services.pattern.celeriac("-A", "shop", "events", "bind") == "bound: bill.sent, order.*, order.created\n"
    early = services.client.emit("order.paid").id

    services.write(
        "shop",
        """
    @app.on_event("stock.**")
    def count(event):
        mark("stock", event.id)

    @app.on_event("order.paid")
    def paid(event):
        mark("paid", event.id)
""",
    )
    worker = services.pattern.start_worker("shop", "-c", "1")
    services.wait_for("shop.paid", 1)
    services.client.emit("bill.sent")
    services.client.emit("order.created")
    low = services.client.emit("stock.low").id
    services.wait_for("shop.stock", 1)
    assert worker.stop() == 0

    assert (services.marks("shop.paid"), services.marks("shop.stock")) == ([early], [low])
    # Had they come, they would wait to be looked at again.
    assert "No handler" not in worker.log


def test_an_event_that_only_the_new_version_handles_waits_for_it(services: Services) -> None:
    services.write("shop", SHOP)
    old = services.pattern.start_worker("shop", "-c", "1", "-n", "shop@h")
    services.write(
        "shop",
        SHOP
        + """
    @app.on_event("stock.*")
    def low(event):
        mark("low", event.id)
""",
    )
    services.pattern.celeriac("-A", "shop", "events", "bind")

    event = services.client.emit("stock.low")
    old.wait_for(r"No handler of service 'shop' wants <Event stock.low")
    new = services.pattern.start_worker("shop", "-c", "1", "-n", "new@h")
    assert old.stop() == 0

    assert services.wait_for("shop.low", 1) == [event.id]
    assert new.stop() == 0


def test_no_event_is_lost_when_whole_workers_are_killed(services: Services) -> None:
    services.write(
        "shop",
        """
    @app.on_event("order.created")
    def first(event):
        mark("first", event.data)

    @app.on_event("order.*")
    def second(event):
        mark("second", event.data)
""",
    )
    worker = services.pattern.start_worker("shop", "-c", "2", "-n", "shop@h")
    for number in range(150):
        services.client.emit("order.created", number)
        if number in (50, 100):
            services.wait_for("shop.second", number // 5)
            worker.kill()
            worker = services.pattern.start_worker("shop", "-c", "2", "-n", "shop@h")

    everything = {str(number) for number in range(150)}
    for name in ("shop.first", "shop.second"):
        wait_until(lambda name=name: set(services.marks(name)) == everything, f"all events in {name}")
    assert worker.stop() == 0


def test_a_subscription_hears_what_it_asks_for_until_it_is_closed(services: Services) -> None:
    client = services.client
    with client.subscribe("order.*", timeout=30) as events, client.subscribe("order.#", buffer=3) as slow:
        for number in range(20):
            client.emit("order.created", number)
            client.emit("order.line.added", number)
        assert [next(events).data for _ in range(20)] == list(range(20))
        wait_until(lambda: slow.missed == 37, "the oldest are dropped")
        assert [next(slow).data for _ in range(3)] == [18, 19, 19]
        assert events.missed == 0

        ended = threading.Thread(target=list, args=(slow,))
        ended.start()
        slow.close()
        ended.join(20)
        assert not ended.is_alive()
    assert list(events) == []
    assert list(client.subscribe(timeout=0.05)) == []


def test_a_coroutine_that_gives_up_waiting_loses_no_event(services: Services) -> None:
    client = services.client

    async def run() -> list[Any]:
        heard: list[Any] = []
        async with client.subscribe() as events:
            for number in range(10):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(events), 0.01)
                await client.aemit("order.created", number)
                heard.append((await asyncio.wait_for(anext(events), 30)).data)
        return heard

    assert asyncio.run(run()) == list(range(10))


TASKS = """
    app.conf.task_stream = True

    @app.task(bind=True)
    def work(self, number):
        if number % 7 == 0:
            raise ValueError(number)
        if number % 5 == 0 and self.request.retries == 0:
            raise self.retry(countdown=0)
        return number

    @app.task(bind=True, ignore_result=True)
    def quiet(self):
        pass

    @app.task(bind=True)
    def steps(self):
        self.update_state(state="HALF", meta={"done": 1})

    @app.task(acks_late=True, reject_on_worker_lost=True)
    def dies():
        os._exit(3)
"""
ENDS = ("succeeded", "failed")


def read(stream: TaskStream, count: int) -> list[TaskEvent]:
    return [next(stream) for _ in range(count)]


@pytest.mark.parametrize("kind", ["embedded", "redis"], indirect=True)
def test_every_end_is_read_once_by_a_reader_that_was_away(services: Services) -> None:
    services.write("jobs", TASKS)
    worker = services.pattern.start_worker("jobs", "-c", "2")
    client = services.client
    seen: list[TaskEvent] = []
    with client.task_stream(types=ENDS, tasks="jobs.*", timeout=30) as stream:
        sent = [client.send_task("jobs.work", (number,)) for number in range(100)]
        seen += read(stream, 30)
        cursor = stream.cursor
    more = [client.send_task("jobs.work", (number,)) for number in range(100, 200)]
    more[-1].get(timeout=30, propagate=False)
    # Nobody has listened to these.
    with client.task_stream(after=cursor, types=ENDS, tasks="jobs.*", timeout=30) as stream:
        seen += read(stream, 170)
    assert worker.stop() == 0

    assert Counter(event.id for event in seen) == dict.fromkeys([result.id for result in sent + more], 1)
    assert Counter(event.type for event in seen) == {"failed": 29, "succeeded": 171}
    assert len({event.cursor for event in seen}) == 200
    assert not any(event.gap for event in seen)
    with client.task_stream(after=cursor, types="retried", timeout=0.05) as stream:
        assert {event.task for event in stream} == {"jobs.work"}


def test_what_happens_to_tasks_is_told(services: Services) -> None:
    services.write("jobs", TASKS)
    worker = services.pattern.start_worker("jobs", "-c", "1", "-n", "jobs@h")
    with services.client.task_stream(timeout=30) as stream:
        assert services.client.send_task("jobs.work", (1,)).get(timeout=30) == 1
        found = next(stream)
        assert (found.type, found.task, found.result, found.worker, found.queue) == (
            "succeeded",
            "jobs.work",
            "1",
            "jobs@h",
            "celery",
        )
        assert found.runtime >= 0
        assert found.time > 1e9
        assert found.exception is None
        services.client.send_task("jobs.work", (7,))
        assert (found := next(stream)).type == "failed"
        assert found.exception == "ValueError(7)"
        services.client.send_task("jobs.quiet")
        assert next(stream).type == "succeeded"
        services.client.send_task("jobs.steps")
        found = next(stream)
        assert (found.type, found.state, found.meta) == ("progress", "HALF", {"done": 1})
        assert next(stream).type == "succeeded"
        services.client.send_task("jobs.unknown")
        assert [event.type for event in read(stream, 2)] == ["failed", "dead-lettered"]
        services.client.send_task("jobs.dies")
        told = read(stream, 5)  # it is lost three times
        assert [event.type for event in told if event.type != "stalled"] == ["failed", "dead-lettered"]
        assert (told[-1].reason, {event.task for event in told}) == ("crashed", {"jobs.dies"})
    assert worker.stop() == 0


@pytest.mark.parametrize("kind", ["rabbitmq"], indirect=True)
def test_rabbitmq_keeps_nothing_to_go_on_from(services: Services) -> None:
    with services.client.task_stream(timeout=0.05) as stream:
        assert list(stream) == []
        assert stream.cursor is None
    with pytest.raises(ImproperlyConfigured, match="keeps no stream"):
        services.client.task_stream(after="1-0")


@pytest.mark.parametrize("kind", ["embedded", "redis"], indirect=True)
def test_nothing_is_written_unless_the_stream_is_wanted(services: Services) -> None:
    services.write("jobs", TASKS.replace("task_stream = True", "task_stream = False"))
    worker = services.pattern.start_worker("jobs", "-c", "1")
    before = services.client.client.stream_end()

    assert services.client.send_task("jobs.work", (1,)).get(timeout=30) == 1
    assert worker.stop() == 0

    assert services.client.client.stream_end() == before
