"""Options of ours: who writes them, and that they stay with a message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celery
from celeriac.app import own, send


def write_colour(call: own.Call, value: Any) -> None:
    call.members["colour"] = value(*call.args, **call.kwargs) if callable(value) else value


@pytest.fixture(autouse=True)
def option(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(own.OPTIONS, "colour", f"{__name__}:write_colour")
    return


@pytest.fixture
def app() -> Celery:
    return Celery("own", broker="memory://")


def header(app: Celery, task: Any, *args: Any, **options: Any) -> Any:
    app.finalize()
    return send.build(app, task.name, args, task=task, **options).headers.get("celeriac")


def test_a_message_without_such_options_has_no_header(app: Celery) -> None:
    plain = app.task(name="plain")(lambda: None)

    assert header(app, plain) is None
    assert plain._own is own.NONE


def test_a_task_or_a_call_has_them_and_the_call_wins(app: Celery) -> None:
    red = app.task(name="red", colour="red")(lambda: None)
    plain = app.task(name="plain")(lambda: None)

    assert [header(app, red) for _ in range(4)] == [{"colour": "red"}] * 4
    assert header(app, red, colour="blue") == {"colour": "blue"}
    assert header(app, plain, colour="blue") == {"colour": "blue"}
    assert send.build(app, "by.name", colour="green").headers["celeriac"] == {"colour": "green"}


def test_a_function_of_the_arguments_is_not_bound_to_the_task(app: Celery) -> None:
    task = app.task(name="painted", colour=lambda shade: f"dark {shade}")(lambda shade: None)

    assert header(app, task, "green") == {"colour": "dark green"}


def test_what_is_sent_again_keeps_its_members(app: Celery) -> None:
    red = app.task(name="red", colour="red")(lambda: None)
    headers = {"celeriac": {"colour": "white", "more": 1}, "mine": 2}

    assert send.build(app, red.name, task=red, headers=headers).headers["celeriac"] == headers["celeriac"]
    again = send.build(app, red.name, task=red, headers=headers, colour="black").headers
    assert (again["celeriac"], again["mine"]) == ({"colour": "black", "more": 1}, 2)
