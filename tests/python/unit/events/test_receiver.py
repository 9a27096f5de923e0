"""`EventReceiver`, and what prints and photographs what it hears."""

from __future__ import annotations

import io
from typing import Any

import pytest

from celeriac import Celery
from celeriac.events.cursesmon import lines
from celeriac.events.dumper import Dumper
from celeriac.events.receiver import _matches
from celeriac.events.snapshot import Polaroid, _per_second
from celeriac.exceptions import ImproperlyConfigured


@pytest.fixture
def app() -> Any:
    with Celery("events", broker="memory://", set_as_current=False) as made:
        yield made


def test_a_capture_gives_events_to_their_handlers(app: Celery) -> None:
    found: list[tuple[str, Any]] = []
    handlers = {"my-event": lambda event: found.append(("mine", event)), "*": lambda event: found.append(("*", event))}
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers=handlers)
        dispatcher = app.events.Dispatcher(hostname="a@b", buffer_group=["task"], buffer_limit=2)

        def send() -> None:
            dispatcher.send("my-event", number=1)
            dispatcher.send("task-started", uuid="1")
            dispatcher.send("task-started", uuid="2")

        # Called when it listens.
        receiver.wakeup_workers = send
        list(receiver.itercapture(limit=2, timeout=20))

    assert [(who, event.get("number"), event.get("uuid")) for who, event in found] == [
        ("mine", 1, None),
        ("*", None, "1"),
        ("*", None, "2"),
    ]
    event = found[0][1]
    assert event["local_received"] >= event["timestamp"]
    assert app.clock.value > event["clock"]


def test_a_capture_ends_when_told_to_or_when_nothing_comes(app: Celery) -> None:
    receiver = app.events.Receiver(app.connection())
    with pytest.raises(TimeoutError, match="no event"):
        receiver.capture(timeout=0.05, wakeup=False)
    receiver.should_stop = True
    receiver.capture(wakeup=True)


def test_nonsense_is_passed_over(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    found: list[Any] = []
    receiver = app.events.Receiver(app.connection(), handlers={"*": found.append})
    json_type = {"content_type": "application/json", "content_encoding": "utf-8"}
    for body in (b"{", b"1", b"[1, null]", b'{"type": 5}', b"[]"):
        assert not receiver._receive_raw(json_type, body)
    assert not receiver._receive_raw({"content_type": "application/x-python-serialize"}, b"cos\nsystem\n")
    assert receiver._receive_raw(json_type, b'[{"type": "x-y", "clock": "odd"}]')

    assert [event["type"] for event in found] == ["x-y"]
    assert isinstance(found[0]["clock"], int)
    assert "Can't decode" in caplog.text


def test_the_clock_of_a_client_is_not_believed(app: Celery) -> None:
    receiver = app.events.Receiver(app.connection())
    app.clock.value = 10
    _, event = receiver.event_from_message({"type": "task-sent", "clock": 5000, "timestamp": 1.0})
    assert event["clock"] == 9
    receiver.event_from_message({"type": "task-received", "clock": 5000, "timestamp": 1.0})
    assert app.clock.value == 5001


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [
        ("#", "task.sent", True),
        ("task.*", "task.sent", True),
        ("task.*", "task", False),
        ("worker.#", "worker", True),
        ("worker.#", "worker.a.b", True),
        ("*.sent", "task.sent", True),
        ("task.sent", "task.received", False),
    ],
)
def test_routing_keys_choose_events_as_in_a_topic(pattern: str, key: str, fits: bool) -> None:
    assert _matches(pattern.split("."), key.split(".")) is fits


def test_a_queue_that_is_exclusive_and_durable_is_refused(app: Celery) -> None:
    with pytest.raises(ImproperlyConfigured, match="exclusive or durable"):
        app.events.Receiver(app.connection(), queue_durable=True, queue_exclusive=True)
    with pytest.raises(ImproperlyConfigured, match="an app of its own"):
        app.connection("redis://elsewhere")


def received(uuid: str) -> dict[str, Any]:
    return {
        "type": "task-received",
        "uuid": uuid,
        "hostname": "w@h",
        "timestamp": 1000.0,
        "local_received": 1000.0,
        "clock": 1,
        "name": "add",
        "args": "()",
        "kwargs": "{}",
        "pid": 1,
    }


def test_the_dump_names_the_task_of_later_events() -> None:
    out = io.StringIO()
    dumper = Dumper(out)
    dumper.on_event(received("i"))
    dumper.on_event({"type": "task-started", "uuid": "i", "hostname": "w@h", "timestamp": 1001.0})
    dumper.on_event({"type": "worker-online", "hostname": "w@h", "timestamp": 1002.0})

    first, second, third = out.getvalue().splitlines()
    assert first.startswith("w@h [1970-01-01 00:16:40+00:00] task received: add(i) args=() kwargs={} clock=1")
    assert second == "w@h [1970-01-01 00:16:41+00:00] task started: add(i) args=() kwargs={}"
    assert third == "w@h [1970-01-01 00:16:42+00:00] started"


def test_the_screen_shows_tasks_within_its_bounds(app: Celery) -> None:
    state = app.events.State()
    assert "-E" in lines(state, 200, 10)[2]
    for number in range(50):
        state.event(received(str(number)))
    shown = lines(state, 40, 10)
    assert len(shown) == 10
    assert all(len(line) < 40 for line in shown)
    assert "tasks: 50" in shown[0]


def test_a_camera_takes_pictures_and_forgets(app: Celery) -> None:
    seen: list[int] = []

    class Camera(Polaroid):
        clear_after = True

        def on_shutter(self, state: Any) -> None:
            seen.append(state.event_count)

    state = app.events.State()
    with Camera(state, freq=3600, app=app) as camera:
        state.event(received("1"))
        camera.capture()
        state.event(received("2"))
        state.event(received("3"))
    assert seen == [1, 2]
    limited = Camera(state, maxrate="1/h", app=app)
    limited.capture()
    limited.capture()
    assert len(seen) == 3
    assert (_per_second("60/m"), _per_second(2), _per_second("7")) == (1, 2, 7)
