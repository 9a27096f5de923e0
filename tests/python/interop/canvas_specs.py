"""Workflows as plain data, built by either library; run as a program by Celery's Python it prints what Celery sends.

A spec is `["task", name, args, options]`, `["chain" | "group" | "pipe", [specs], options]` or
`["chord", [header specs], body spec, options]`. Options: `immutable`, `link` and `link_error` (specs), and the rest as
options of the signature.
"""

from __future__ import annotations

import importlib
import json
import operator
import os
import random
import sys
from functools import reduce
from typing import Any

NAMES = ("demo.add", "demo.total", "demo.echo")


def declare(app: Any) -> None:
    def given(*args):
        return list(args)

    for name in NAMES:
        app.task(name=name)(given)


def build(spec: Any, app: Any, library: Any) -> Any:
    """The signature of a spec."""
    kind, options = spec[0], dict(spec[-1])
    immutable, links, errbacks = (options.pop(name, None) for name in ("immutable", "link", "link_error"))
    if kind == "task":
        sig = app.tasks[spec[1]].s(*spec[2])
    elif kind == "chord":
        sig = library.chord([build(one, app, library) for one in spec[1]], build(spec[2], app, library))
    elif kind == "pipe":
        sig = reduce(operator.or_, [build(one, app, library) for one in spec[1]])
    else:
        sig = getattr(library, kind)([build(one, app, library) for one in spec[1]])
    if immutable:
        sig.set(immutable=True)
    for one in links or ():
        sig.link(build(one, app, library))
    for one in errbacks or ():
        sig.link_error(build(one, app, library))
    return sig.set(**options) if options else sig


def any_spec(chance: random.Random, depth: int, *, queues: bool = True) -> Any:
    """A workflow of at most this depth; without `queues` nothing says where and when it goes."""
    kind = chance.choice(["task", "task", "chain", "group", "chord", "pipe"]) if depth else "task"
    if kind == "task":
        options = _options(chance, 0.15, queues)
        if chance.random() < 0.15:
            options["immutable"] = True
        return ["task", chance.choice(NAMES), [chance.randrange(10)], options]
    size = chance.choice([1, 2, 2, 3])
    members = [any_spec(chance, depth - 1, queues=queues) for _ in range(size)]
    if kind == "chord":
        return ["chord", members, any_spec(chance, depth - 1, queues=queues), _options(chance, 0.1, queues)]
    return [kind, members, {} if kind == "group" else _options(chance, 0.1, queues)]


def _options(chance: random.Random, likely: float, queues: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if queues:
        for name, value in (("queue", chance.choice("abc")), ("countdown", 100), ("priority", 3)):
            if chance.random() < likely:
                options[name] = value
    for name in ("link", "link_error"):
        if chance.random() < likely:
            options[name] = [["task", "demo.echo", [], {}]]
    return options


def celerys(specs: list[Any]) -> list[Any]:
    """What Celery would send for each spec: called, and called with what a worker adds to the rest of a chain."""
    celery = importlib.import_module("celery")
    base = importlib.import_module("celery.backends.base")
    kombu_json = importlib.import_module("kombu.utils.json")
    group_result = importlib.import_module("celery.result").GroupResult

    class Recorder(base.KeyValueStoreBackend):
        """Starts chords as the Redis backend does."""

        started: list[Any] = []

        def set_chord_size(self, group_id, chord_size):
            self.started.append([group_id, chord_size])

        def apply_chord(self, header_result_args, body, **kwargs):
            header = self.app.GroupResult(*header_result_args)
            if any(isinstance(one, group_result) for one in header.results):
                self.started.append(["saved", header.as_tuple()])

    class App(celery.Celery):
        def _get_backend(self):
            return Recorder(app=self, url="recorder://")

    app = App("specs", broker="memory://", set_as_current=True)
    declare(app)
    app.finalize()
    sent: list[Any] = []

    def send(producer, name, message, **options):
        queue = options.get("queue")
        sent.append(
            {
                "headers": {**message.headers, **(options.get("headers") or {})},
                "priority": options.get("priority"),
                "body": json.loads(kombu_json.dumps(message.body)),
                "queue": getattr(queue, "name", queue),
            }
        )

    app.amqp.__dict__["send_task_message"] = send
    found = []
    for spec in specs:
        outcome = []
        for how in calls(app, celery, spec):
            sent.clear()
            Recorder.started = []
            try:
                result = how()
            except Exception as exc:
                outcome.append({"raised": type(exc).__name__, "why": repr(exc)})
                continue
            tree = result.as_tuple() if result is not None else None
            outcome.append({"messages": list(sent), "chords": Recorder.started, "result": tree})
        outcome.append(eager(app, celery, spec))
        found.append(outcome)
    return json.loads(kombu_json.dumps(found))


def eager(app: Any, library: Any, spec: Any) -> Any:
    """What it gives when all of it runs at once."""
    app.conf.task_always_eager = True
    try:
        return {"value": build(spec, app, library).apply_async().get()}
    except Exception as exc:
        return {"raised": type(exc).__name__, "why": repr(exc)}
    finally:
        app.conf.task_always_eager = False


def calls(app: Any, library: Any, spec: Any) -> list[Any]:
    """The ways in which a signature is sent: by its maker, by a worker that got it in a message."""

    def by_maker() -> Any:
        return build(spec, app, library).apply_async()

    def with_arguments() -> Any:
        return build(spec, app, library).apply_async((7,), root_id="root")

    def by_worker() -> Any:
        sig = build(spec, app, library)
        sig.freeze()
        got = library.signature(json.loads(json.dumps(sig)), app=app)
        rest = json.loads(json.dumps([app.tasks["demo.echo"].s(1), app.tasks["demo.add"].s(2)]))
        return got.apply_async((7,), root_id="root", chain=rest)

    def with_options() -> Any:
        return build(spec, app, library).apply_async(queue="d", countdown=50, headers={"by": "me"}, expires=None)

    def with_links() -> Any:
        echo = app.tasks["demo.echo"]
        return build(spec, app, library).apply_async(link=echo.s("linked"), link_error=[echo.s("failed")])

    def copied() -> Any:
        return build(spec, app, library).clone(priority=5).clone().apply_async()

    return [by_maker, with_arguments, by_worker, with_options, with_links, copied]


if __name__ == "__main__":
    json.dump(celerys(json.load(sys.stdin)), sys.stdout)
    sys.stdout.flush()
    os._exit(0)
