"""Where tasks go, against a table recorded from Celery."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac import Celery, Exchange, Queue
from celeriac._core import Publication
from celeriac.app import send
from celeriac.exceptions import QueueNotFound

ROWS = json.loads((Path(__file__).parents[3] / "golden/offline/routing.json").read_text())["rows"]
QUEUES = [
    SimpleNamespace(name=name, exchange=SimpleNamespace(name=exchange, type=kind), routing_key=key)
    for name, exchange, kind, key in (
        ("celery", "celery", "direct", "celery"),
        ("images", "media", "direct", "media.image"),
        ("feed", "feeds", "topic", "feed.#"),
        ("fan", "fans", "fanout", ""),
    )
]
#: Calls of workflows that this version has not, or that only differ by what a transport refuses.
LEFT_OUT = ("map(", "chain(")


class Published(Exception):
    """Carries the message instead of sending it."""


def settings_of(row: dict[str, Any]) -> dict[str, Any]:
    settings = dict(row["settings"])
    if str(settings.get("task_queues", "")).startswith("[<"):
        settings["task_queues"] = QUEUES
    elif "task_queues" in settings:
        settings["task_queues"] = eval(settings["task_queues"])
    routes = settings.get("task_routes")
    if isinstance(routes, str):
        settings["task_routes"] = (lambda name, *_, **__: "images") if "lambda" in routes else eval(routes)
    return settings


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if not any(word in row["call"] for word in LEFT_OUT)],
    ids=lambda row: f"{row['call']} {sorted(row['settings'])}",
)
def test_a_call_goes_where_celery_sends_it(row: dict[str, Any], register, monkeypatch) -> None:
    app = Celery("capture", broker="sqlite:///unused.db", **settings_of(row))
    sent: list[Any] = []
    monkeypatch.setattr(send, "publish", lambda app, message, options: sent.append(message.publication))
    names = {**vars(register(app)), "app": app, "re": re}

    if row["raised"] and not row["published"]:
        with pytest.raises((QueueNotFound, ValueError)):
            exec(row["call"], names)
        return
    exec(row["call"], names)

    (publication,) = sent
    (expected,) = row["published"]
    assert publication.exchange == expected["exchange"]
    assert publication.routing_key == expected["routing_key"]
    assert publication.properties.get("priority") == expected["properties"].get("priority")
    (declared,) = expected["declared"]
    assert _declared(app, publication) == declared


def _declared(app: Celery, publication: Publication) -> dict[str, Any]:
    """What the engine declares: what comes with the message, else what it finds in the topology."""
    queue = publication.declare
    if queue is None:
        topology = app.router.queues.topology()
        name = publication.routing_key if publication.exchange == "" else topology["default_queue"]
        missing = Queue(name, Exchange(name, topology["missing_exchange_type"]), name)
        queue = topology["queues"].get(name) or missing.declaration()
        assert topology["missing_queue_type"] == "classic" or name in topology["queues"]
    return {
        "queue": queue["name"],
        "exchange": queue["exchange"]["name"],
        "type": queue["exchange"]["type"],
        "key": queue["routing_key"],
        "arguments": queue["arguments"] or None,
    }


def test_an_object_with_route_for_task_is_a_router() -> None:
    class ByName:
        def route_for_task(self, task, args=None, kwargs=None):
            return {"queue": task.partition(".")[0]}

    app = Celery("x", task_routes=(ByName(),))

    assert app.router.route({}, "video.encode").routing_key == "video"
    assert app.router.static is False


def test_a_change_of_the_routes_is_seen_by_the_next_call(app: Celery) -> None:
    assert send.build(app, "t").routing_key == "celery"

    app.conf.task_routes = {"t": "late"}

    assert send.build(app, "t").routing_key == "late"
