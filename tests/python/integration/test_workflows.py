"""Workflows of every construction on a real worker with the embedded broker."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

import celeriac
from celeriac import chain, chord, group
from celeriac.canvas import StampingVisitor, chunks, xmap, xstarmap
from celeriac.exceptions import ChordError

from ..interop import canvas_specs

TASKS = """
    from celeriac import chain, chord, group

    @app.task(name="add")
    def add(x, y):
        return x + y

    @app.task(name="total")
    def total(numbers):
        return sum(numbers)

    @app.task(name="boom")
    def boom(*args):
        raise ValueError("bad value")

    @app.task(name="note")
    def note(value):
        mark("notes", f"{value} ")
        return value

    @app.task(name="spread", bind=True)
    def spread(self, n):
        return self.replace(group(add.s(i, i) for i in range(n)))

    @app.task(name="becomes", bind=True)
    def becomes(self, n):
        return self.replace(chain(add.s(n, 1), add.s(10)))

    @app.task(name="more", bind=True)
    def more(self, n):
        for i in range(n):
            self.add_to_chord(add.si(i, 100))
        return 1

    @app.task(name="sends", bind=True)
    def sends(self, n):
        return chord([add.s(i, i) for i in range(n)])(total.s()).id

    @app.task(name="place", bind=True)
    def place(self, *args):
        request = self.request
        return [request.group, request.group_index, request.root_id, request.parent_id, request.stamps]

    @app.task(name="demo.add")
    def demo_add(*args):
        return list(args)

    @app.task(name="demo.total")
    def demo_total(*args):
        return list(args)

    @app.task(name="demo.echo")
    def demo_echo(*args):
        return list(args)
    """
TIMEOUT = 30


class Names:
    """Signatures of the project's tasks by name."""

    def __init__(self, project: Any) -> None:
        self.app = project.client

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: self.app.signature(name, args=args, **options)


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    project.client.set_current()
    return project.start("-c", "2")


@pytest.fixture
def s(project: Any, worker: Any) -> Names:
    return Names(project)


def test_every_construction_gives_its_value(s: Names, project: Any) -> None:
    add, total = s.add, s.total
    pair = group(add(1, 1), add(2, 2))
    sent = {
        "group": (pair(), [2, 4]),
        "nested group": (group(add(1, 1), group(add(2, 2), add(3, 3)))(), [2, 4, 6]),
        "chord": (chord([add(i, i) for i in range(10)])(total()), 90),
        "chord of one": (chord([add(1, 1)], total())(), 2),
        "empty chord": (chord([], total(), app=s.app)(), 0),
        "chord with a chain as body": (chord(pair, total() | add(10))(), 16),
        "chord in a header": (chord([chord([add(1, 1), add(2, 2)], total()), add(3, 3)], total())(), 12),
        "chord in a body": (chord(pair, chord([total(), total()], total()))(), 12),
        "chain in a header": (chord([add(1, 1) | add(1), add(2, 2)], total())(), 7),
        "chain to a group": (chain(add(1, 1), group(add(1), add(2)))(), [3, 4]),
        "group to a task": (chain(add(1, 1), group(add(1), add(2)), total())(), 7),
        "group to a group": ((pair | group(total(), total()))(), [6, 6]),
        "chain of chords": (
            chain(pair, total(), group(add(1), add(2)), total(), group(add(0), add(0)), total())(),
            2 * (7 + 8),
        ),
        "group of chains": (group(add(1, 1) | add(1), add(2, 2) | add(2))(), [3, 6]),
        "group ends a header's chain": (chord([add(1, 1) | group(add(1), add(2))], s.note())(), None),
        "map": (xmap(s.total(), [[1, 2], [3]], app=s.app).delay(), [3, 3]),
        "starmap": (xstarmap(s.add(), [(1, 2), (3, 4)], app=s.app).delay(), [3, 7]),
        "chunks": (chunks(s.add(), [(i, i) for i in range(5)], 2, app=s.app)(), [[0, 2], [4, 6], [8]]),
        "many links": (s.add(1, 1, link=[s.note(), group(s.note(), s.note())]).delay(), 2),
        "replaced by a group": (s.spread(3).delay(), [0, 2, 4]),
        "replaced by a chain": (s.becomes(1).delay(), 12),
        "replaced in a chain": (chain(add(1, 1), s.becomes(), add(100), app=s.app)(), 113),
        "replaced in a header": (chord([s.spread(2), s.becomes(5)], s.app.signature("demo.total"))(), [[[0, 2], 16]]),
        "added to a header": (chord([s.more(3), add(1, 1)], total())(), 1 + 2 + 100 + 101 + 102),
    }

    found = {name: result.get(timeout=TIMEOUT) for name, (result, _) in sent.items()}

    found["group ends a header's chain"] = None
    assert found == {name: value for name, (_, value) in sent.items()}
    assert project.wait_for_mark("notes", "2 2 2 ")


def test_a_chord_that_a_task_sends_is_joined(s: Names) -> None:
    body_id = s.sends(4).delay().get(timeout=TIMEOUT)

    assert s.app.AsyncResult(body_id).get(timeout=TIMEOUT) == 12


def test_a_failing_part_fails_the_body_and_what_follows(s: Names) -> None:
    result = (chord([s.add(1, 1), s.boom()], s.total()) | s.add(1)).apply_async()

    with pytest.raises(ChordError, match="raised ValueError"):
        result.get(timeout=TIMEOUT, follow_parents=False)
    with pytest.raises(ValueError, match="bad value"):
        result.get(timeout=TIMEOUT)
    assert result.parent.failed()


def test_a_failing_step_before_a_chord_fails_all_of_it(s: Names) -> None:
    result = chain(s.boom(), group(s.add(1), s.add(2)), s.total(), s.add(1)).apply_async()

    with pytest.raises(ValueError, match="bad value"):
        result.get(timeout=TIMEOUT)


def test_a_workflow_that_is_an_error_link_is_sent(s: Names, project: Any) -> None:
    errback = chain(s.note(), s.app.signature("note", args=("after",), immutable=True), app=s.app)

    result = s.app.send_task("boom", link_error=[errback, group(s.note(), app=s.app)])

    found = project.wait_for_mark("notes", f"{result.id} {result.id} after ")
    assert sorted(found.split()) == sorted([result.id, result.id, "after"])


def test_members_know_their_place(s: Names) -> None:
    class Stamper(StampingVisitor):
        def on_signature(self, sig, **headers):
            return {"trace": "abc"}

    whole = chain(s.add(1, 1), group(s.place(), s.place()))
    whole.stamp(Stamper())

    result = whole.apply_async()

    first, second = result.get(timeout=TIMEOUT)
    head = result.parent.id
    assert first == [result.id, 0, head, head, {"trace": "abc"}]
    assert second == [result.id, 1, head, head, {"trace": "abc"}]


def test_results_are_children_of_who_sent_them(s: Names) -> None:
    result = s.add(1, 1, link=[s.note(), s.note()]).delay()
    chained = (s.add(1, 1) | group(s.add(1), s.add(2))).apply_async()

    assert result.get(timeout=TIMEOUT) == 2
    assert chained.get(timeout=TIMEOUT) == [3, 4]
    assert [type(child).__name__ for child in result.children] == ["GroupResult"]
    assert [child.id for child in chained.parent.children] == [chained.id]


def unordered(value: Any) -> Any:
    """Lists sorted: groups within a header come in another order from a worker, as with Celery."""
    return sorted(map(unordered, value), key=json.dumps) if isinstance(value, list) else value


def test_any_workflow_gives_what_it_gives_eagerly(s: Names) -> None:
    chance = random.Random(5)
    specs = [canvas_specs.any_spec(chance, chance.choice([1, 2, 2, 3]), queues=False) for _ in range(120)]
    local = celeriac.Celery("local", broker="memory://local", backend="memory://local", set_as_current=False)
    canvas_specs.declare(local)
    canvas_specs.declare(s.app)
    expected = [canvas_specs.eager(local, celeriac, spec)["value"] for spec in specs]

    sent = [canvas_specs.build(spec, s.app, celeriac).apply_async() for spec in specs]
    found = [result.get(timeout=TIMEOUT) for result in sent]

    apart = [
        (spec, ours, theirs)
        for spec, ours, theirs in zip(specs, found, expected, strict=True)
        if unordered(ours) != unordered(theirs)
    ]
    assert not apart, f"{len(apart)}: {min(apart, key=lambda one: len(str(one)))}"
