"""`EventDispatcher`, `app.events` and `task-sent`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celeriac import Celery
from celeriac.events import Event, group_from
from celeriac.exceptions import OperationalError


class Broker:
    """Takes what is broadcast, or is away."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []
        self.away = False

    def broadcast(self, exchange: str, publication: Any, ttl: float) -> None:
        if self.away:
            raise OperationalError("no broker")
        assert publication.exchange == exchange
        assert publication.properties["delivery_mode"] == 1
        self.sent.append((exchange, publication.routing_key, json.loads(publication.body)))


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    monkeypatch.setattr(Celery, "client", made)
    return made


@pytest.fixture
def app() -> Celery:
    return Celery("events", broker="memory://", set_as_current=False)


def test_an_event_says_who_when_and_what(app: Celery, broker: Broker) -> None:
    with app.events.Dispatcher(hostname="me@here") as dispatcher:
        dispatcher.send("my-event", detail=1)
        dispatcher.send("my-event", blind=True)

    (exchange, key, event), (_, _, blind) = broker.sent
    assert (exchange, key) == ("celeryev", "my.event")
    assert list(event) == ["hostname", "utcoffset", "pid", "clock", "detail", "timestamp", "type"]
    assert (event["hostname"], event["clock"], event["type"]) == ("me@here", 1, "my-event")
    assert blind["clock"] is None


def test_only_events_of_the_wanted_groups_are_sent(app: Celery, broker: Broker) -> None:
    dispatcher = app.events.Dispatcher(groups=["task"])
    dispatcher.send("worker-online")
    dispatcher.send("task-started", uuid="1")
    dispatcher.disable()
    dispatcher.send("task-started", uuid="2")

    assert [key for _, key, _ in broker.sent] == ["task.started"]


def test_events_of_a_buffered_group_are_sent_together(app: Celery, broker: Broker) -> None:
    told: list[int] = []
    dispatcher = app.events.Dispatcher(buffer_group=["task"], buffer_limit=3, on_send_buffered=lambda: told.append(1))
    for number in range(4):
        dispatcher.send("task-started", uuid=str(number))

    assert [(key, [event["uuid"] for event in events]) for _, key, events in broker.sent] == [
        ("task.multi", ["0", "1", "2"])
    ]
    assert len(told) == 3
    dispatcher.flush()
    assert [event["uuid"] for event in broker.sent[1][2]] == ["3"]


def test_what_cannot_be_sent_waits_for_the_next_flush(app: Celery, broker: Broker) -> None:
    dispatcher = app.events.Dispatcher()
    broker.away = True
    dispatcher.send("my-event", number=1)
    with app.events.default_dispatcher() as strict, pytest.raises(OperationalError):
        strict.send("my-event", number=2)
    broker.away = False
    dispatcher.flush()

    assert [event["number"] for _, _, event in broker.sent] == [1]


def test_a_message_is_told_of_when_that_is_wanted(app: Celery, broker: Broker) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    message = app.compose_task_message("add", (1, 2), {}, add, {"task_id": "i", "priority": 3})
    app.events.task_sent(message.publication)

    ((_, key, event),) = broker.sent
    assert key == "task.sent"
    wanted = {"uuid": "i", "root_id": "i", "parent_id": None, "name": "add", "args": "(1, 2)", "kwargs": "{}"}
    wanted |= {"retries": 0, "eta": None, "expires": None, "queue": "celery", "exchange": "", "routing_key": "celery"}
    assert {name: event[name] for name in wanted} == wanted
    assert event["hostname"].startswith("gen")


def test_an_event_keeps_a_timestamp_that_it_was_given() -> None:
    assert Event("a-b", timestamp=5, x=1) == {"timestamp": 5, "x": 1, "type": "a-b"}
    assert Event("a-b", {"x": 1})["timestamp"] > 1_700_000_000
    assert group_from("task-sent") == "task"
