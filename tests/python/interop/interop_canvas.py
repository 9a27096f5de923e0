"""Workflows, each sent by a client of one library, and what comes of them. A case builds one; the rest is the same for all."""

from __future__ import annotations

import json
import os
import random

import interop_canvas_app as tasks
from interop_canvas_app import canvas
from interop_cases import plain, raised, ran

TIMEOUT = float(os.environ.get("INTEROP_CANVAS_TIMEOUT", "30"))
CASES = {}
IDS: dict[str, list[str]] = {}
EARLY: frozenset[str] = frozenset()

add, node, total, noop, fails, lineage = tasks.add, tasks.node, tasks.total, tasks.noop, tasks.fails, tasks.lineage
chain, group, chord, chunks = canvas.chain, canvas.group, canvas.chord, canvas.chunks


def known(name, result):
    """Remembers the ids of a workflow, in the order in which its results hang together."""
    ids = IDS.setdefault(name, [])
    while result is not None:
        ids.extend(one for one in identities(result) if one not in ids)
        result = result.parent


def identities(result):
    yield result.id
    for member in getattr(result, "results", None) or ():
        while member is not None:
            yield from identities(member)
            member = member.parent


def seen_of(result):
    """What waiting for a workflow gives."""
    seen = {"kind": type(result).__name__}
    try:
        seen["value"] = plain(result.get(timeout=TIMEOUT))
    except Exception as exc:
        seen["raised"] = raised(exc)
    members = getattr(result, "results", None)
    if members is None:
        seen["state"] = result.state
    else:
        seen["members"] = [type(member).__name__ for member in members]
        seen["count"] = result.completed_count() if "value" in seen else None
    return seen


def sends(name, expected_notes=()):
    """A case that sends the workflow that a function makes."""

    def register(make):
        def run():
            result = make().apply_async()
            known(name, result)
            yield
            seen = seen_of(result)
            for key, count in expected_notes:
                seen[key] = sorted(ran(key, count), key=json.dumps)
            return seen

        CASES[name] = run
        return make

    return register


def n(tag, *given):
    return node.s(*given, tag=tag)


def single(name, make, *expected_notes):
    sends(name, expected_notes)(make)


# --- chains

single("chain of two", lambda: n("a", 1) | n("b"))
single("chain of many", lambda: chain(*(n(str(number)) for number in range(8))))
single("chain with immutable steps", lambda: chain(n("a", 1), node.si(2, tag="b"), n("c")))
single("chain in a chain", lambda: chain(n("a"), chain(n("b"), n("c")), n("d")))
single("chain with partial arguments", lambda: chain(add.s(1, 2), add.s(10), add.s(100)))
single("chain that breaks", lambda: chain(n("a"), fails.s(), n("b"), n("c")))
single("chain that retries", lambda: chain(n("a"), tasks.retried.s(tag="r"), n("b")))
single("chain with a quiet step", lambda: chain(n("a"), tasks.quiet.s(), n("b")))
single("chain that ends in a group", lambda: chain(n("a"), group(n("b"), n("c"))))
single("chain with a lineage", lambda: chain(lineage.s(tag="a"), lineage.s(tag="b"), lineage.s(tag="c")))
single("chain of a chain and a link", lambda: _linked(chain(n("a"), n("b")), "chain-link"), ("chain-link", 1))
single(
    "chain with an errback",
    lambda: chain(n("a"), fails.s(), n("b")).on_error(tasks.errback_new.s(key="chain-errback")),
    ("chain-errback", 1),
)
single(
    "chain with an errback of the old style",
    lambda: chain(n("a"), fails.s(), n("b")).on_error(tasks.errback_old.s("chain-errback-old").set(immutable=False)),
    ("chain-errback-old", 1),
)


def _linked(signature, key):
    signature.link(tasks.noted.s(key=key))
    return signature


# --- groups

single("group", lambda: group(n("a"), n("b"), n("c")))
single("group of a generator", lambda: group(add.s(number, number) for number in range(20)))
single("group of one", lambda: group(n("a")))
single("group in a group", lambda: group(n("a"), group(n("b"), n("c")), n("d")))
single("group of chains", lambda: group(chain(n("a"), n("b")), chain(n("c"), n("d")), n("e")))
single("group with a failure", lambda: group(n("a"), fails.s(), n("b")))
single("group with a lineage", lambda: group(lineage.s(tag=str(number)) for number in range(3)))
single("group in the middle of a chain", lambda: chain(n("a"), group(n("b"), n("c")), n("d")))
single("group, then group", lambda: chain(group(n("a"), n("b")), group(n("c"), n("d"))))
single("group, group, task", lambda: chain(group(n("a"), n("b")), group(n("c"), n("d")), n("e")))
single("group of groups and a task", lambda: chain(group(group(n("a"), n("b")), n("c")), n("d")))
single("group of one in a chain", lambda: chain(n("a"), group(n("b")), n("c")))
single("group with partial arguments", lambda: chain(n("a"), group(add.si(1, 1), add.si(2, 2)), total.s()))


# --- chords

single("chord", lambda: chord([add.s(number, number) for number in range(10)], total.s()))
single("chord of one", lambda: chord([n("a")], n("body")))
single("chord of none", lambda: chord([], n("body")))
single("chord with an immutable body", lambda: chord([n("a"), n("b")], node.si(tag="body")))
single("chord with arguments in its body", lambda: chord([add.s(1, 1), add.s(2, 2)], total.s(more=100)))
single("chord whose body is a chain", lambda: chord([n("a"), n("b")], chain(n("c"), n("d"))))
single("chord whose body is a group", lambda: chord([n("a"), n("b")], group(n("c"), n("d"))))
single("chord whose body is a chord", lambda: chord([n("a"), n("b")], chord([n("c"), n("d")], n("e"))))
single("chord, then a task", lambda: chain(chord([n("a"), n("b")], n("c")), n("d")))
single("chord in a chain", lambda: chain(n("a"), chord([n("b"), n("c")], n("d")), n("e")))
single("chord in a chord", lambda: chord([chord([n("a"), n("b")], n("c")), n("d")], n("e")))
single("chord of chains", lambda: chord([chain(n("a"), n("b")), chain(n("c"), n("d"))], n("e")))
single("chord of chains with chords", lambda: chord([chain(n("a"), chord([n("b"), n("c")], n("d"))), n("e")], n("f")))
single("chord with groups in its header", lambda: chord([group(n("a"), n("b")), n("c")], n("d")))
single("chord with a quiet part", lambda: chord([n("a"), tasks.quiet.s(), n("b")], n("c")))
single("chord with a part that retries", lambda: chord([n("a"), tasks.retried.s(tag="r")], n("c")))
single("chord with a failing part", lambda: chord([n("a"), fails.s(), n("b")], n("c")))
single("chord with a failing chain", lambda: chord([chain(n("a"), fails.s(), n("b")), n("c")], n("d")))
single("chord with a failing body", lambda: chord([n("a"), n("b")], fails.s()))
single("chord with a lineage", lambda: chord([lineage.s(tag="a"), lineage.s(tag="b")], n("body")))
single(
    "chord with an errback",
    lambda: chord([n("a"), fails.s()], n("b").on_error(tasks.errback_new.s(key="chord-errback"))),
    ("chord-errback", 1),
)
single("chord, the rest never runs", lambda: chain(chord([n("a"), fails.s()], n("b")), n("c"), n("d")))
single("chord with a link on its body", lambda: chord([n("a"), n("b")], _linked(n("c"), "body-link")), ("body-link", 1))
single("chord of 100", lambda: chord([add.s(number, 0) for number in range(100)], total.s()))
single("chord that grows", lambda: chord([tasks.joins_later.s(number) for number in range(3)], total.s()))


# --- map, starmap, chunks

single("map", lambda: total.map([[1, 2], [3, 4], [5]]))
single("starmap", lambda: add.starmap([(1, 2), (3, 4)]))
single("chunks", lambda: add.chunks([(number, number) for number in range(10)], 3).group())
single("chunks, then a task", lambda: chain(add.chunks([(number, 1) for number in range(6)], 2).group(), n("after")))
single("map in a chain", lambda: chain(total.map([[1], [2, 3]]), n("after")))


# --- replace

for kind in ("task", "chain", "group", "chord", "fails", "nested"):
    single(f"replaced by {kind}", lambda kind=kind: tasks.replaced.s(kind))
    single(f"replaced by {kind} in a chain", lambda kind=kind: chain(n("a"), tasks.replaced.si(kind), n("b")))
    single(f"replaced by {kind} in a chord", lambda kind=kind: chord([n("a"), tasks.replaced.si(kind)], n("b")))


# --- random nestings


class Dice:
    """Makes workflows of nested chains, groups and chords; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.made = 0

    def task(self):
        self.made += 1
        return n(str(self.made))

    def any(self, depth):
        kinds = [self.task] if depth == 0 else [self.task, *[lambda: self.nested(depth)] * 3]
        return self.random.choice(kinds)()

    def several(self, depth, least):
        return [self.any(depth - 1) for _ in range(self.random.randint(least, 3))]

    def nested(self, depth):
        kind = self.random.choice(["chain", "group", "chord"])
        if kind == "chain":
            return chain(*self.several(depth, 2))
        if kind == "group":
            return group(*self.several(depth, 1))
        return chord(self.several(depth, 1), self.any(depth - 1))


def nesting(seed):
    """A workflow of up to three levels."""
    return Dice(seed).nested(3)


for seed in range(int(os.environ.get("INTEROP_NESTINGS_FROM", "0")), int(os.environ.get("INTEROP_NESTINGS", "0"))):
    single(f"nesting {seed}", lambda seed=seed: nesting(seed))
