"""Events between services, as far as no broker is needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from celeriac import Event
from celeriac.app import handlers
from celeriac.app.base import Celery
from celeriac.exceptions import ImproperlyConfigured


@pytest.fixture
def shop() -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", backend="memory://", set_as_current=False, task_always_eager=True)
    yield app
    app.close()


def test_an_event_is_a_mapping_with_the_names_of_cloudevents(shop: Celery) -> None:
    happened = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)

    event = shop.emit(
        "order.created", {"id": 7}, id="e1", subject="orders/7", time=happened, extensions={"tenant": "a"}
    )

    assert json.loads(json.dumps(event)) == {
        "specversion": "1.0",
        "id": "e1",
        "type": "order.created",
        "source": "shop",
        "time": "2026-03-01T12:30:00Z",
        "datacontenttype": "application/json",
        "data": {"id": 7},
        "subject": "orders/7",
        "tenant": "a",
    }
    assert (event.id, event.type, event.subject, event.time, event.tenant) == (
        "e1",
        "order.created",
        "orders/7",
        happened,
        "a",
    )
    assert event.dataschema is None
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = event.colour


def test_events_have_ids_and_sources_of_their_own(shop: Celery) -> None:
    first, second = shop.emit("a"), shop.emit("a")
    shop.conf.event_service = "billing"

    assert first.id != second.id
    assert (first.source, shop.emit("a").source, shop.emit("a", source="/x").source) == ("shop", "billing", "/x")


@pytest.mark.parametrize("type", ["", "order.", ".a", "a..b", "order.*", "a b", "a.#", "x" * 256, 7, "a\n"])
def test_a_type_is_words_with_dots_between(shop: Celery, type: Any) -> None:
    with pytest.raises(ValueError, match="the type of an event"):
        shop.emit(type)


@pytest.mark.parametrize("pattern", ["", "order.", "a**", "or*", "***", "a b", 7])
def test_a_pattern_is_words_and_stars(shop: Celery, pattern: Any) -> None:
    with pytest.raises(ValueError, match="a pattern of events"):
        shop.on_event(pattern)
    with pytest.raises(TypeError, match="needs the types of events"):
        shop.on_event()
    with pytest.raises(TypeError, match="needs the types of events"):
        shop.on_event(lambda event: None)  # type: ignore[arg-type]


def test_wrong_options_are_refused_where_the_user_stands(shop: Celery) -> None:
    with pytest.raises(TypeError, match="no option 'queue'"):
        shop.emit("a", queue="q")
    with pytest.raises(ValueError, match="'id' is no extension"):
        shop.emit("a", extensions={"id": 7})


def test_two_stars_are_any_number_of_words() -> None:
    assert handlers.read_patterns(["order.**", "**", "a.*.#"]) == ("order.#", "#", "a.*.#")


def test_handlers_are_tasks_that_get_an_event(shop: Celery) -> None:
    seen: list[Any] = []

    @shop.on_event("order.*", "bill.**", name="mail")
    def mail(event: Event) -> None:
        seen.append(("mail", type(event).__name__, event.type, event.data))

    @shop.on_event("order.created", bind=True, max_retries=7)
    def stock(self: Any, event: Event) -> None:
        seen.append(("stock", self.request.id, self.max_retries, event["data"]))

    @shop.on_event("order.created")
    async def tell(event: Event) -> None:
        seen.append(("tell", event.id))

    event = shop.emit("order.created", 1)
    shop.emit("bill.sent.late", 2)
    shop.emit("bill", 3)
    asyncio.run(shop.aemit("order.paid", 4))
    shop.emit("nobody.cares")

    assert seen == [
        ("mail", "Event", "order.created", 1),
        ("stock", event.task_id(stock), 7, 1),
        ("tell", event.id),
        ("mail", "Event", "bill.sent.late", 2),
        ("mail", "Event", "bill", 3),
        ("mail", "Event", "order.paid", 4),
    ]
    assert set(shop.tasks) >= {"mail", stock.name, tell.name, "celeriac.event"}
    assert (mail.acks_late, mail.acks_on_failure, mail.reject_on_worker_lost) == (True, False, True)


def test_one_handler_that_raises_stops_no_other(shop: Celery) -> None:
    shop.conf.task_eager_propagates = True
    seen = []

    @shop.on_event("a")
    def broken(event: Event) -> None:
        raise ValueError("broken")

    @shop.on_event("a")
    def fine(event: Event) -> None:
        seen.append(event.type)

    with pytest.raises(ValueError, match="broken"):
        shop.emit("a")
    assert seen == ["a"]


def test_the_id_of_a_run_follows_from_event_and_handler() -> None:
    event, same = Event(id="1", source="shop"), Event(id="1", source="shop", type="x")
    others = [Event(id="2", source="shop"), Event(id="1", source="mail")]

    assert event.task_id("h") == same.task_id("h")
    assert len({event.task_id("h"), event.task_id("g"), *(other.task_id("h") for other in others)}) == 4


def test_an_app_without_handlers_pays_nothing_and_has_no_such_task() -> None:
    app = Celery("plain", broker="memory://", set_as_current=False)

    assert "celeriac.event" not in app.tasks
    assert app._handlers is None


def test_a_service_needs_a_name() -> None:
    app = Celery(broker="memory://", set_as_current=False)
    app.on_event("a")(lambda event: None)

    with pytest.raises(ImproperlyConfigured, match="event_service"):
        app.bind_events()
    app.conf.event_service = "a b"
    with pytest.raises(ImproperlyConfigured, match="letters"):
        app.bind_events()


def test_a_worker_takes_its_services_events_unless_queues_are_named(shop: Celery) -> None:
    from celeriac.app.options import worker_options

    def chosen(*queues: str, exclude: tuple[str, ...] = ()) -> tuple[Any, Any]:
        # A worker starts once: what the one before has named is not known.
        shop.amqp.flush_routes()
        options = worker_options(shop, node="w@h", queues=queues or None, exclude_queues=exclude, concurrency=1)
        return options["queues"], options["topics"]

    assert chosen() == (["celery"], None)

    @shop.on_event("order.*")
    def mail(event: Event) -> None: ...

    queue = "celeriac.events.shop"
    bound = ("celeriac.events", queue, ["order.*"])
    assert chosen() == (["celery", queue], bound)
    assert chosen("other") == (["other"], None)
    assert chosen("other", queue) == (["other", queue], bound)
    assert chosen(exclude=(queue,)) == (["celery"], None)
    shop.conf.event_service_consume = True
    assert chosen("other") == (["other", queue], bound)
    shop.conf.event_service_consume = False
    assert chosen() == (["celery"], None)


def test_the_queue_of_a_service_needs_no_place_in_the_settings() -> None:
    app = Celery("shop", broker="memory://", set_as_current=False, task_create_missing_queues=False)

    assert handlers.service_queue(app) == "celeriac.events.shop"
    declared = app.router.queues.topology()["queues"]["celeriac.events.shop"]
    assert (declared["exchange"]["name"], declared["routing_key"]) == ("celeriac.events.shop", "celeriac.events.shop")


def test_types_of_the_stream_are_checked(shop: Celery) -> None:
    with pytest.raises(ValueError, match="no events of type 'done'"):
        shop.task_stream(types="done")
