"""Messages that a template makes are those that are made step by step; and it is not used where it does not fit."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from celeriac import Celery
from celeriac._core import Publication, json_dumps
from celeriac.app import send
from celeriac.exceptions import EncodeError
from celeriac.signals import after_task_publish, before_task_publish

ID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def app() -> Celery:
    return Celery("templates", broker="memory://", backend="memory://", set_as_current=False)


@pytest.fixture
def task(app: Celery) -> Any:
    @app.task(name="templates.add", typing=False)
    def add(*args: Any, **kwargs: Any) -> None:
        """Nothing."""

    app.finalize()
    return add


def call(task: Any, args: Any = (1, 2), kwargs: Any = None, **options: Any) -> Publication:
    options.setdefault("task_id", ID)
    return send.compose(task.app, task.name, args, kwargs, task, options).publication


def parts(publication: Publication) -> tuple[Any, ...]:
    """Everything in a message; headers as text, so that their order counts."""
    return (
        json_dumps(publication.headers),
        publication.properties,
        publication.body,
        publication.exchange,
        publication.routing_key,
        publication.due_ms,
    )


def taught(task: Any) -> Any:
    """The task, after calls that taught it its template."""
    for _ in range(3):
        call(task)
    assert task._template is not None
    return task


def slowly(task: Any, make: Callable[[], Publication]) -> Publication:
    """The message, made without a template."""
    task._template = task._template_values = None
    made = make()
    assert task._template is None
    return made


CALLS: list[dict[str, Any]] = [
    {},
    {"args": ()},
    {"args": [1, "two", None]},
    {"args": ("it's", 'a "quote"', "\u00e4\u20ac\U0001f600", "\ud800", "\x00\n")},
    {"args": ({"nested": [1, (2, 3), {"deep": [[[[1]]]]}]},), "kwargs": {"x": 1.5, "y": float("inf")}},
    {"args": (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), UUID(ID), b"raw"), "kwargs": {"when": dt.date(2026, 1, 1)}},
    {"args": ("long " * 600,), "kwargs": {"text": "x" * 3000}},
    {"root_id": "root", "parent_id": "parent"},
    {"parent_id": "parent"},
    {"reply_to": "elsewhere"},
    {"task_id": "not a uuid \u00e4"},
    {"link": [{"task": "next", "args": [], "kwargs": {}, "options": {}}]},
    {"link": {"task": "next"}, "link_error": {"task": "error"}},
    {"chain": [{"task": "last"}, {"task": "next"}], "link_error": []},
    {"chain": [], "chord": {"task": "body"}},
    {"task_id": None, "root_id": None, "parent_id": None, "link": None, "chain": None, "reply_to": None},
]


@pytest.mark.parametrize("case", CALLS, ids=lambda case: ",".join(case) or "plain")
def test_a_template_makes_the_message_that_steps_make(task: Any, case: dict[str, Any]) -> None:
    case = {"task_id": ID, **case}
    if case["task_id"] is None:
        # Made up each time: everything else must be the same.
        case["task_id"], case = ID, {key: value for key, value in case.items() if key != "task_id"}
    wanted = slowly(task, lambda: call(task, **case))
    held = taught(task)._template
    built = call(task, **case)

    assert parts(built) == parts(wanted)
    assert task._template is held


def test_a_message_carries_its_parts_for_those_who_are_told(task: Any) -> None:
    taught(task)
    told: list[dict[str, Any]] = []

    def receive(**named: Any) -> None:
        told.append(named)

    after_task_publish.connect(receive)
    try:
        result = task.apply_async((1,), {"x": 2})
    finally:
        after_task_publish.disconnect(receive)
    headers = told[0]["headers"]
    assert told[0]["sender"] == task.name
    assert (headers["id"], headers["root_id"], headers["task"]) == (result.id, result.id, task.name)
    assert told[0]["body"] == ((1,), {"x": 2}, dict.fromkeys(("callbacks", "errbacks", "chain", "chord")))


def test_a_receiver_before_publishing_still_changes_the_message(task: Any) -> None:
    taught(task)

    def receive(headers: dict[str, Any], **_: Any) -> None:
        headers["mine"] = 1

    before_task_publish.connect(receive)
    try:
        assert call(task).headers["mine"] == 1
    finally:
        before_task_publish.disconnect(receive)
    assert "mine" not in call(task).headers


def change_priority(app: Celery, task: Any) -> None:
    task.priority = 7


def change_limit(app: Celery, task: Any) -> None:
    task.time_limit = 5.0


def change_queue_of_the_class(app: Celery, task: Any) -> None:
    type(task).queue = "other"


def change_ignored(app: Celery, task: Any) -> None:
    task.ignore_result = True


def change_expiry(app: Celery, task: Any) -> None:
    task.expires = 60


def change_serializer(app: Celery, task: Any) -> None:
    task.serializer = "pickle"


def change_routes(app: Celery, task: Any) -> None:
    app.conf.task_routes = {task.name: {"queue": "routed", "priority": 3}}


def change_shown_length(app: Celery, task: Any) -> None:
    app.argsrepr_maxsize = 4


@pytest.mark.parametrize(
    "change",
    [
        change_priority,
        change_limit,
        change_queue_of_the_class,
        change_ignored,
        change_expiry,
        change_serializer,
        change_routes,
        change_shown_length,
    ],
    ids=lambda change: change.__name__,
)
def test_what_is_changed_after_a_call_shows_in_the_next(app: Celery, task: Any, change: Any) -> None:
    before = parts(call(taught(task)))
    change(app, task)
    after = [call(task) for _ in range(4)]
    wanted = slowly(task, lambda: call(task))

    for made in after:
        # The date of an expiry is another each time.
        assert {**made.headers, "expires": None} == {**wanted.headers, "expires": None}
        assert bool(made.headers["expires"]) == bool(wanted.headers["expires"])
        assert parts(made)[2:] == parts(wanted)[2:]
    assert parts(wanted) != before


def test_an_attribute_that_is_computed_is_asked_for_each_time(app: Celery) -> None:
    class Computed(app.Task):  # type: ignore[name-defined, misc]
        name = "templates.computed"
        asked = 0

        @property
        def queue(self) -> str:
            type(self).asked += 1
            return f"queue-{self.asked}"

    task = app.register_task(Computed())
    app.finalize()
    keys = [call(task).routing_key for _ in range(5)]
    assert len(set(keys)) == 5


@pytest.mark.parametrize("options", [{"countdown": 60}, {"queue": "x"}, {"headers": {"a": 1}}, {"priority": 9}])
def test_a_call_with_other_options_is_made_step_by_step(task: Any, options: dict[str, Any]) -> None:
    taught(task)
    made = call(task, **options)
    wanted = slowly(task, lambda: call(task, **options))
    assert made.properties == wanted.properties
    assert made.routing_key == wanted.routing_key
    assert {**made.headers, "eta": None} == {**wanted.headers, "eta": None}
    assert (made.due_ms is None) == ("countdown" not in options)


def test_what_cannot_be_encoded_is_refused_in_the_same_words(task: Any) -> None:
    taught(task)
    with pytest.raises(EncodeError) as quick:
        call(task, args=(object(),))
    task._template = None
    with pytest.raises(EncodeError) as slow:
        call(task, args=(object(),))
    assert str(quick.value) == str(slow.value)


def test_arguments_may_be_as_deep_as_without_a_template(task: Any) -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return (value,)

    for levels in (509, 510, 511, 512):
        outcomes = []
        for quick in (False, True):
            task._template = task._template_values = None
            if quick:
                taught(task)
            try:
                outcomes.append(call(task, args=nested(levels)).body)
            except EncodeError as exc:
                outcomes.append(str(exc))
        assert outcomes[0] == outcomes[1]


@pytest.fixture
def running(app: Celery, task: Any) -> Iterator[Any]:
    """A request of a worker that runs here."""
    from celeriac._state import pop_current_task, push_current_task

    task.push_request(id="running", root_id="first", called_directly=False, delivery_info={"priority": 4})
    push_current_task(task)
    yield task
    pop_current_task()
    task.pop_request()


def test_a_call_from_a_task_names_its_parent_and_root(app: Celery, running: Any) -> None:
    headers = call(taught(running)).headers
    assert (headers["root_id"], headers["parent_id"]) == ("first", "running")
    assert parts(call(running)) == parts(slowly(running, lambda: call(running)))


def test_a_call_from_a_task_inherits_its_priority(app: Celery, running: Any) -> None:
    app.conf.task_inherit_parent_priority = True
    for _ in range(4):
        assert call(running).properties["priority"] == 4
    running.request.delivery_info["priority"] = 5
    assert call(running).properties["priority"] == 5


def test_a_forked_process_names_itself_and_makes_ids_of_its_own(task: Any) -> None:
    taught(task)
    options: dict[str, Any] = {}
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        headers = send.compose(task.app, task.name, (), {}, task, options).headers
        os.write(writer, json_dumps([headers["origin"], headers["id"]]))
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as pipe:
        origin, task_id = __import__("json").loads(pipe.read())
    own = send.compose(task.app, task.name, (), {}, task, {}).headers
    assert str(pid) in origin
    assert str(os.getpid()) in own["origin"]
    assert task_id != own["id"]
