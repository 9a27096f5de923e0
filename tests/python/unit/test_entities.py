"""Queues, exchanges and bindings: kombu's signatures, and what the engine is told of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celeriac import Celery, Exchange, Queue, binding
from celeriac.entities import Broadcast, as_queue, is_broadcast
from celeriac.exceptions import ImproperlyConfigured, QueueNotFound
from celeriac.utils.nodenames import worker_direct


def kombus(name: str, exchange: Any = None, **attributes: Any) -> Any:
    """A queue as kombu's objects look from outside."""
    defaults: dict[str, Any] = {
        "routing_key": "", "bindings": set(), "queue_arguments": None, "binding_arguments": None,
        "consumer_arguments": None, "durable": True, "exclusive": False, "auto_delete": False, "no_ack": False,
        "no_declare": None, "alias": None, "expires": None, "message_ttl": None, "max_length": None,
        "max_length_bytes": None, "max_priority": None,
    }  # fmt: skip
    return SimpleNamespace(name=name, exchange=exchange, **{**defaults, **attributes})


def test_a_queue_says_what_is_declared() -> None:
    queue = Queue(
        "a",
        Exchange("media", type="topic", delivery_mode="transient", arguments={"alternate-exchange": "rest"}),
        "a.#",
        queue_arguments={"x-max-priority": 5, "x-dead-letter-exchange": "dead"},
        consumer_arguments={"x-priority": 1},
        max_priority=10,
        expires=1.5,
        message_ttl=60,
        max_length=7,
        alias="other",
    )

    declared = queue.declaration()

    assert declared["exchange"] == {
        "name": "media", "type": "topic", "durable": True, "auto_delete": False, "no_declare": False,
        "delivery_mode": 1, "arguments": {"alternate-exchange": "rest"},
    }  # fmt: skip
    assert declared["routing_key"] == "a.#"
    assert declared["arguments"] == {
        "x-max-priority": 10, "x-dead-letter-exchange": "dead", "x-expires": 1500, "x-message-ttl": 60000,
        "x-max-length": 7,
    }  # fmt: skip
    assert declared["consumer_arguments"] == {"x-priority": 1}
    assert queue == as_queue(queue)


def test_several_bindings_take_the_place_of_the_exchange() -> None:
    many = [binding(Exchange("x", "topic"), "a.*"), binding("y", "b")]

    queue = Queue("q", many)

    assert queue.exchange.name == ""
    assert [(one["exchange"]["name"], one["routing_key"]) for one in queue.declaration()["bindings"]] == [
        ("x", "a.*"),
        ("y", "b"),
    ]
    assert Queue("q", bindings=many) == queue


def test_an_exclusive_queue_goes_with_its_connection() -> None:
    assert Queue("q", exclusive=True).auto_delete is True


def test_objects_like_kombus_are_read_with_all_they_say() -> None:
    exchange = SimpleNamespace(
        name="media", type="topic", durable=False, auto_delete=True, passive=False, delivery_mode=1,
        arguments=None, no_declare=False,
    )  # fmt: skip
    bound = SimpleNamespace(exchange=exchange, routing_key="more", arguments={"x-match": "any"})

    read = as_queue(
        kombus("q", exchange, routing_key="key", bindings=[bound], max_priority=3, durable=False, alias="also")
    )

    expected = Queue(
        "q", Exchange("media", "topic", durable=False, auto_delete=True, delivery_mode=1), "key",
        max_priority=3, durable=False, alias="also",
    )  # fmt: skip
    expected.bindings = [binding(expected.exchange, "more", {"x-match": "any"})]
    assert read == expected


def test_a_broadcast_has_a_queue_of_its_own_on_a_fanout_exchange() -> None:
    one, other = Broadcast("news"), Broadcast("news")

    assert one.name.startswith("bcast.")
    assert one.name != other.name
    assert (one.exchange.name, one.exchange.type, one.alias, one.auto_delete) == ("news", "fanout", "news", True)
    assert Broadcast("news", queue="mine").name == "mine"
    assert Broadcast("news", queue="mine", unique=True).name.startswith("mine.")


def test_a_broadcast_of_kombus_is_known_by_its_class() -> None:
    class Broadcast(SimpleNamespace):
        pass

    theirs = Broadcast(**vars(kombus("bcast.1", SimpleNamespace(name="news", type="fanout"), alias="news")))

    assert is_broadcast(as_queue(theirs))


def test_a_mapping_is_read_as_celery_reads_it() -> None:
    app = Celery(
        "x", task_queues={"a": {"exchange_type": "topic", "exchange": "e"}, "b": {"binding_key": "k"}, "c": {}}
    )
    queues = app.amqp.queues

    assert (queues["a"].exchange.name, queues["a"].exchange.type, queues["a"].routing_key) == ("e", "topic", "a")
    assert (queues["b"].exchange.name, queues["b"].routing_key) == ("celery", "k")
    assert queues["c"].routing_key == "c"


def test_the_topology_has_what_the_settings_say() -> None:
    app = Celery(
        "x",
        task_queues=[Queue("a", Exchange("media", "topic"), "a.#"), kombus("b", queue_arguments={"x-max-priority": 2})],
        task_queue_max_priority=9,
        task_default_queue="main",
        task_default_queue_type="quorum",
        task_create_missing_queue_type="quorum",
        task_create_missing_queue_exchange_type="topic",
        broker_native_delayed_delivery_queue_type="classic",
    )

    topology = app.router.queues.topology()

    assert {name: queue["arguments"] for name, queue in topology["queues"].items()} == {
        "a": {"x-max-priority": 9},
        "b": {"x-max-priority": 2},
        "main": {"x-queue-type": "quorum", "x-max-priority": 9},
    }
    assert topology["queues"]["b"]["exchange"]["name"] == "main"
    rest = {key: value for key, value in topology.items() if key != "queues"}
    assert rest == {
        "default_queue": "main", "missing_queue_type": "quorum", "missing_exchange_type": "topic",
        "delayed_queue_type": "classic", "max_priority": 9,
    }  # fmt: skip
    # The default queue is sent to, and not consumed from: nobody has configured it.
    assert list(app.amqp.queues.consume_from) == ["a", "b"]


@pytest.mark.parametrize("setting", ["task_default_queue_type", "task_create_missing_queue_type"])
def test_an_unknown_queue_type_is_refused(setting: str) -> None:
    app = Celery("x", **{setting: "stream"})

    with pytest.raises(ImproperlyConfigured, match=f"{setting} must be classic or quorum"):
        app.router.queues.topology()


def declared_with(app: Celery, **options: Any) -> dict[str, Any] | None:
    return app.router.route(options, "t").declare


def test_a_message_carries_the_declaration_that_the_engine_cannot_find_by_itself() -> None:
    feed = Queue("feed", Exchange("feeds", "topic"), "feed.#")
    app = Celery("x", task_queues=[Queue("celery"), feed, Broadcast("news")])

    assert declared_with(app) is None
    assert declared_with(app, queue="celery") is None
    assert declared_with(app, queue="new") is None
    assert declared_with(app, queue=Queue("celery")) is None
    assert declared_with(app, exchange="elsewhere", routing_key="k") is None
    found = declared_with(app, queue="feed")
    assert found is not None
    assert (found["name"], found["exchange"]["name"]) == ("feed", "feeds")
    own = declared_with(app, queue=Queue("mine", Exchange("own"), "k", max_priority=4))
    assert own is not None
    assert own["arguments"] == {"x-max-priority": 4}
    other = declared_with(app, queue=Queue("celery", durable=False))
    assert other is not None
    assert other["durable"] is False


def test_a_queue_given_with_a_call_is_bound_to_nothing_that_it_does_not_name() -> None:
    app = Celery("x", task_queue_max_priority=9)

    target = app.router.route({"queue": Queue("mine")}, "t")

    assert target[:2] == ("", "mine")
    assert target.declare == Queue("mine").declaration()
    assert target.declare["exchange"]["name"] == ""


def test_a_missing_queue_of_a_topic_exchange_is_declared_with_the_message() -> None:
    app = Celery("x", task_create_missing_queue_exchange_type="topic")

    found = declared_with(app, queue="new")

    assert found is not None
    assert (found["name"], found["exchange"]["type"]) == ("new", "topic")
    assert app.router.route({"queue": "new"}, "t")[:2] == ("new", "new")


def test_a_broadcast_is_sent_to_and_not_declared() -> None:
    app = Celery("x", task_queues=[Broadcast("news")])

    target = app.router.route({"queue": "news"}, "t")

    assert target[:2] == ("news", "celery")
    assert target.declare is not None
    assert target.declare["no_declare"] is target.declare["exchange"]["no_declare"] is True
    assert target.declare["exchange"]["type"] == "fanout"


def test_a_template_carries_the_declaration_too(app: Celery) -> None:
    app.conf.task_queues = [Queue("celery"), Queue("feed", Exchange("feeds", "topic"), "feed.#")]
    app.conf.task_routes = {"unit.t": "feed"}

    @app.task(name="unit.t")
    def t() -> None: ...

    sent = [app.compose_task_message("unit.t", (), {}, t, {}).publication for _ in range(4)]

    assert t._template is not None
    assert [one.declare["name"] for one in sent if one.declare] == ["feed"] * 4


def test_queues_are_selected_and_left_out(app: Celery) -> None:
    app.conf.task_queues = [Queue("a"), Queue("b", alias="bee"), Queue("c")]
    queues = app.amqp.queues

    queues.deselect("bee")
    assert list(queues.consume_from) == ["a", "c"]
    queues.select(["c", "new"])
    queues.select_add("extra", exchange="e", routing_key="k")
    assert list(queues.consume_from) == ["c", "new", "extra"]
    # What was done by hand outlives a change of the settings.
    app.conf.task_default_priority = 1
    assert list(app.amqp.queues.consume_from) == ["c", "new", "extra"]
    assert app.amqp.queues["extra"].routing_key == "k"

    app.conf.task_create_missing_queues = False
    with pytest.raises(QueueNotFound):
        app.select_queues("nobody-has-it")


def test_a_queue_that_was_added_by_hand_is_declared_with_its_messages(app: Celery) -> None:
    app.amqp.queues.add(Queue("extra", max_length=1))

    found = declared_with(app, queue="extra")

    assert found is not None
    assert found["arguments"] == {"x-max-length": 1}


def test_worker_direct_is_a_queue_of_one_worker(app: Celery) -> None:
    from celeriac.app.options import worker_options

    app.conf.worker_direct = True

    options = worker_options(app, node="w1@worker.example")

    assert options["queues"] == ["celery", "w1@worker.example.dq2"]
    declared = options["topology"]["queues"]["w1@worker.example.dq2"]
    assert (declared["exchange"]["name"], declared["exchange"]["type"]) == ("C.dq2", "direct")
    assert declared["routing_key"] == "w1@worker.example"
    assert worker_direct("w1@worker.example").declaration() == declared


def test_bindings_of_objects_like_kombus_are_read() -> None:
    exchange = SimpleNamespace(name="media", type="topic", durable=True, auto_delete=False, arguments=None)
    alike = SimpleNamespace(exchange=exchange, routing_key="a.*", arguments={"x": 1}, unbind_arguments=None)

    queue = Queue("q", bindings=[alike])

    assert queue.declaration()["bindings"][0]["exchange"]["type"] == "topic"
    assert queue.declaration()["bindings"][0]["routing_key"] == "a.*"


def test_default_queue_and_exchange_may_be_objects() -> None:
    exchange = SimpleNamespace(name="main-exchange", type="topic", durable=True)
    app = Celery("objects", broker="memory://", task_default_exchange=exchange, task_default_queue=kombus("main"))

    queue = app.amqp.default_queue

    assert (queue.name, queue.exchange.name, queue.exchange.type) == ("main", "main-exchange", "topic")
