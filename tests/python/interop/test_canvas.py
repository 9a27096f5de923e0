"""Workflows of any shape: what we would send is what Celery sends."""

from __future__ import annotations

import json
import random
import re
import subprocess
from typing import Any

import pytest

import celeriac
from celeriac import Celery
from celeriac.app import chords
from celeriac.result import GroupResult

from . import canvas_specs
from .battery import ROOT

SEED = 20260
WAYS = ("by its maker", "with arguments", "by a worker", "with options", "with links", "copied")
COUNT = 250
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
#: Of the process and the moment; and nobody acts on the sender's id when it is the one that runs.
UNSTABLE = {"argsrepr", "origin", "expires", "reply_to", "parent_id"}


def specs() -> list[Any]:
    chance = random.Random(SEED)
    return [canvas_specs.any_spec(chance, chance.choice([1, 2, 3])) for _ in range(COUNT)]


class Outbox:
    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.started: list[Any] = []

    def publish(self, batch, *how):
        self.sent.extend(batch)

    def start_chord(self, app, group_id, size):
        self.started.append([group_id, size])

    def guard_chords(self, ids, publications):
        pass

    def save(self, group):
        self.started.append(["saved", group.as_tuple()])

    def take(self) -> dict[str, Any]:
        messages = [
            {
                "headers": dict(one.headers),
                "body": json.loads(one.body),
                "queue": one.routing_key,
                "priority": one.properties.get("priority"),
            }
            for one in self.sent
        ]
        started = self.started
        self.sent, self.started = [], []
        return {"messages": messages, "chords": started}


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> Outbox:
    box = Outbox()
    monkeypatch.setattr(Celery, "client", box)
    monkeypatch.setattr(chords, "start_chord", box.start_chord)
    monkeypatch.setattr(GroupResult, "save", lambda group: box.save(group), raising=False)
    return box


def neutral(value: Any, names: dict[str, str]) -> Any:
    """The same with ids numbered as they are met; without nothings, and without what is of the moment."""
    if isinstance(value, dict):
        if value.get("subtask_type") == "group":
            # Celery's copies of a chord forget what was fixed of its header; ours do not.
            value = {**value, "options": {**value["options"], "root_id": None}}
            if value["options"].get("chord"):
                # A body that is in a group's own options, Celery also writes into each of its members.
                value["kwargs"] = {"tasks": [without_body(member) for member in value["kwargs"]["tasks"]]}
        if value.get("subtask_type") in {"chain", "chord"} and is_part(end_of(value)):
            # And what the end of a workflow says, into the options of the whole as well.
            value = {**value, "options": {**value["options"], "chord": None}}
        kept = {key: neutral(value[key], names) for key in sorted(value) if key not in UNSTABLE}
        for key in ("link", "link_error", "errbacks"):
            # One that is equal but for a list where the other has a tuple, Celery adds a second time.
            given = kept.get(key)
            if isinstance(given, list):
                kept[key] = [one for place, one in enumerate(given) if one not in given[:place]]
        if "eta" in kept:
            kept["eta"] = kept["eta"] is not None
        return {key: one for key, one in kept.items() if one is not None and one != []}
    if isinstance(value, (list, tuple)):
        return [neutral(item, names) for item in value]
    if isinstance(value, str):
        return UUID.sub(lambda match: names.setdefault(match[0], f"<{len(names)}>"), value)
    return value


def end_of(sig: dict[str, Any]) -> Any:
    kwargs = sig["kwargs"]
    return kwargs["body"] if sig["subtask_type"] == "chord" else kwargs["tasks"] and kwargs["tasks"][-1]


def is_part(sig: Any) -> bool:
    """Whether a signature, or its end, says what chord it is a part of."""
    if not sig:
        return False
    return bool(sig["options"].get("chord")) or (sig["subtask_type"] in {"chain", "chord"} and is_part(end_of(sig)))


def without_body(member: dict[str, Any]) -> dict[str, Any]:
    """A member of a group that does not say itself what it is a part of."""
    options = {key: item for key, item in member["options"].items() if key != "chord"}
    kwargs = dict(member["kwargs"])
    match member["subtask_type"]:
        case "chain" | "group" as kind:
            ends = kwargs["tasks"][-1:] if kind == "chain" else kwargs["tasks"]
            others = kwargs["tasks"][: len(kwargs["tasks"]) - len(ends)]
            kwargs["tasks"] = [*others, *map(without_body, ends)]
        case "chord":
            kwargs["body"] = without_body(kwargs["body"])
    return {**member, "options": options, "kwargs": kwargs}


def tree(result: Any) -> Any:
    """A stored result without the ids of groups: Celery gives those of groups that it has copied since."""
    if result is None:
        return None
    (identity, parent), children = result
    if children is None:
        return [identity, tree(parent)]
    return ["group", tree(parent), [tree(child) for child in children]]


def comparable(outcome: dict[str, Any]) -> Any:
    if "raised" in outcome:
        return outcome["raised"]
    names: dict[str, str] = {}
    messages = neutral(outcome["messages"], names)
    # In any order: all of it is done before the first message goes.
    started = sorted(
        json.dumps(neutral(["saved", tree(one[1])] if one[0] == "saved" else one, names)) for one in outcome["chords"]
    )
    return {"messages": messages, "chords": started, "result": neutral(tree(outcome["result"]), names)}


@pytest.fixture(scope="module")
def celerys() -> list[Any]:
    """What Celery makes of each spec."""
    program = [ROOT / ".venv-celery/bin/python", canvas_specs.__file__]
    given = json.dumps(specs())
    done = subprocess.run(program, input=given, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def app() -> Celery:
    app = Celery("specs", broker="sqlite:///unused.db", backend="sqlite:///unused.db", set_as_current=True)
    canvas_specs.declare(app)
    return app


def test_any_workflow_is_sent_as_celery_sends_it(app: Celery, outbox: Outbox, celerys: list[Any]) -> None:
    apart, compared = [], 0
    for spec, expected in zip(specs(), celerys, strict=True):
        for how, call, outcome in zip(WAYS, canvas_specs.calls(app, celeriac, spec), expected[:-1], strict=True):
            try:
                result = call()
            except Exception as exc:
                seen: dict[str, Any] = {"raised": type(exc).__name__}
                outbox.take()
            else:
                stored = json.loads(json.dumps(result.as_tuple())) if result is not None else None
                seen = {**outbox.take(), "result": stored}
            compared += "messages" in outcome
            ours, theirs = comparable(seen), comparable(outcome)
            if ours != theirs:
                apart.append((how, spec, {"celery": theirs, "celeriac": ours}))

    assert compared > COUNT * 2
    assert not apart, f"{len(apart)} of {compared}, such as {json.dumps(min(apart, key=lambda one: len(str(one))))}"


def test_any_workflow_gives_eagerly_what_it_gives_with_celery(app: Celery, celerys: list[Any]) -> None:
    apart = []
    for spec, expected in zip(specs(), celerys, strict=True):
        seen = canvas_specs.eager(app, celeriac, spec)
        if seen.get("value", ...) != expected[-1].get("value", ...):
            apart.append((spec, expected[-1], seen))

    assert sum("value" in expected[-1] for expected in celerys) > COUNT / 2
    assert not apart, f"{len(apart)} of {COUNT}, such as {json.dumps(min(apart, key=lambda one: len(str(one))))}"
