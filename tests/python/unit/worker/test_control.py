"""Commands that an app adds: how they are registered, and what becomes of what they return."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac.exceptions import WorkerShutdown
from celeriac.worker.control import Desk, Panel, control_command, inspect_command, nok, ok, strtobool


class Engine:
    def __init__(self) -> None:
        self.replies: list[tuple[int, Any]] = []

    def reply(self, number: int, text: str) -> bool:
        self.replies.append((number, json.loads(text)))
        return True


@pytest.fixture
def panel() -> Iterator[None]:
    data, meta = dict(Panel.data), dict(Panel.meta)
    yield
    Panel.data.clear(), Panel.data.update(data)
    Panel.meta.clear(), Panel.meta.update(meta)


@pytest.fixture
def desk() -> Desk:
    stopped: list[tuple[str, str]] = []
    controller = SimpleNamespace(stopped=stopped, stop=lambda how, name: stopped.append((how, name)))
    return Desk("the app", "w@h", SimpleNamespace(controller=controller))


def carried_out(desk: Desk, method: str, **arguments: Any) -> Any:
    engine = Engine()
    desk.carry_out(engine, 7, method, json.dumps(arguments))
    assert [number for number, _ in engine.replies] == [7]
    return engine.replies[0][1]


def test_built_in_commands_are_known_and_answered_by_the_engine() -> None:
    assert Panel.meta["rate_limit"].type == "control"
    assert Panel.meta["rate_limit"].args == [("task_name", str), ("rate_limit", str)]
    assert Panel.meta["ping"].default_timeout == 0.2
    assert not Panel.meta["hello"].visible
    assert {"dump_conf", "dump_tasks", "shutdown"} <= set(Panel.data)
    assert Panel.own() == []


@pytest.mark.usefixtures("panel")
def test_a_command_is_registered_by_its_name_and_its_alias(desk: Desk) -> None:
    @control_command(alias="twice", args=[("n", int)], signature="[N]")
    def double(state: Any, n: int = 1) -> Any:
        """Doubles a number.

        And more.
        """
        return ok([state.app, state.hostname, state.tset([n]) == {n}, 2 * n])

    assert Panel.own() == ["double", "twice"]
    assert (Panel.meta["double"].help, Panel.meta["double"].type) == ("Doubles a number.", "control")
    assert carried_out(desk, "double", n=4) == {"ok": ["the app", "w@h", True, 8]}
    assert carried_out(desk, "twice") == {"ok": ["the app", "w@h", True, 2]}


@pytest.mark.usefixtures("panel")
def test_an_error_is_an_answer_and_what_json_does_not_know_is_shown(desk: Desk) -> None:
    @inspect_command(name="broken")
    def breaks(state: Any) -> Any:
        raise KeyError("x")

    @inspect_command()
    def odd(state: Any) -> Any:
        return nok({"set": {1}, "tuple": (1, 2), "other": 1j})

    assert carried_out(desk, "broken") == {"error": "KeyError('x')"}
    assert carried_out(desk, "odd") == {"error": {"set": [1], "tuple": [1, 2], "other": "1j"}}
    assert "unexpected keyword argument" in carried_out(desk, "odd", n=1)["error"]


@pytest.mark.usefixtures("panel")
def test_a_command_may_end_the_worker_and_does_not_answer_then(desk: Desk) -> None:
    @control_command()
    def leave(state: Any) -> Any:
        raise WorkerShutdown(0)

    engine = Engine()
    desk.carry_out(engine, 1, "leave", "{}")

    assert engine.replies == []
    assert desk._state.consumer.controller.stopped == [("warm", "command leave")]


def test_a_state_without_such_a_thing_says_so(desk: Desk) -> None:
    with pytest.raises(AttributeError, match="has no 'timer'"):
        _ = desk._state.timer


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("True", True), ("0", False), ("off", False)])
def test_words_for_yes_and_no(text: str, value: bool) -> None:
    assert strtobool(text) is value
    with pytest.raises(TypeError):
        strtobool("perhaps")
