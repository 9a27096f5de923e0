"""The client's side of remote control: which replies count, and when they are enough."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celeriac.app.base import Celery
from celeriac.app.control import Control, flatten_reply
from celeriac.exceptions import DuplicateNodenameWarning, ImproperlyConfigured


class Inbox:
    def __init__(self) -> None:
        self.waiting: list[tuple[dict[str, Any], bytes]] = []
        self.closed = False

    def next(self, timeout: float | None) -> tuple[dict[str, Any], bytes] | None:
        return self.waiting.pop(0) if self.waiting else None

    def close(self) -> None:
        self.closed = True


class Client:
    """Answers each broadcast with what it is told to."""

    def __init__(self, *nodes: str) -> None:
        self.nodes = nodes
        self.sent: list[dict[str, Any]] = []
        self.opened = Inbox()
        self.foreign = False

    def inbox(self, exchange: str, key: str) -> Inbox:
        self.opened.key = exchange, key
        return self.opened

    def broadcast(self, exchange: str, publication: Any, ttl: float) -> None:
        body = json.loads(publication.body)
        self.sent.append(body)
        ticket = "another" if self.foreign else body.get("ticket")
        for node in self.nodes:
            headers = {"ticket": ticket, "clock": 5}
            self.opened.waiting.append((headers, json.dumps({node: {"ok": "pong"}}).encode()))


def asking(*nodes: str) -> tuple[Control, Client]:
    client = Client(*nodes)
    here = type("Here", (Celery,), {"client": property(lambda self: client)})
    return here("client", broker="memory://", set_as_current=False).control, client


def test_a_request_is_what_celerys_clients_send() -> None:
    control, client = asking()

    assert control.rate_limit("t", "1/m", destination=["a"]) is None
    control.broadcast("x", {"a": 1}, b=2, pattern="w*", matcher="glob")

    first, second = client.sent
    assert first == {
        "method": "rate_limit",
        "arguments": {"task_name": "t", "rate_limit": "1/m"},
        "destination": ["a"],
        "pattern": None,
        "matcher": None,
    }
    assert (second["arguments"], second["pattern"], second["matcher"]) == ({"a": 1, "b": 2}, "w*", "glob")


def test_replies_are_collected_until_there_are_enough() -> None:
    control, client = asking("a", "b", "c")
    seen: list[Any] = []

    replies = control.ping(limit=2, callback=seen.append)

    assert [next(iter(reply)) for reply in replies] == ["a", "b"]
    assert seen == replies
    assert client.opened.closed
    exchange, key = client.opened.key
    assert client.sent[0]["reply_to"] == {"exchange": exchange, "routing_key": key}
    assert exchange == "reply.celery.pidbox"


def test_replies_to_other_questions_do_not_count() -> None:
    control, client = asking("a")
    client.foreign = True

    assert control.ping(timeout=0.01) == []
    assert control.inspect(timeout=0.01).ping() is None


def test_a_single_name_gives_the_answer_of_that_node_alone() -> None:
    control, _ = asking("a", "b")

    assert control.inspect(destination="a").ping() == {"ok": "pong"}
    assert control.inspect(pattern="b*", matcher="glob").ping() == {"b": {"ok": "pong"}}


def test_two_nodes_of_one_name_are_told_of() -> None:
    with pytest.warns(DuplicateNodenameWarning, match="more than one reply from a"):
        assert flatten_reply([{"a": 1}, {"a": 2}]) == {"a": 2}


def test_settings_that_contradict_each_other_are_refused() -> None:
    app = Celery("client", set_as_current=False)
    app.conf.update(control_queue_durable=True, control_queue_exclusive=True)

    with pytest.raises(ImproperlyConfigured, match="cannot both be on"):
        _ = app.control
