"""What is told when a message becomes a dead letter, and how one is sent again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac import Celery
from celeriac.app.dead_letters import DeadLetter
from celeriac.signals import task_dead_lettered
from celeriac.worker import dead_letters, task_signals


def execution(task: str = "t") -> Any:
    return SimpleNamespace(headers={"task": task, "id": "i", "retries": 2}, queue="q")


class Client:
    """Takes what is published, and gives letters."""

    def __init__(self, letters: list[dict[str, Any]] = []) -> None:  # noqa: B006
        self.published: list[Any] = []
        self.resolved: list[Any] = []
        self.letters = letters
        self.filters: list[Any] = []

    def publish(self, batch: list[Any], *how: Any) -> None:
        self.published += batch

    def find_dead(self, filter: dict[str, Any], limit: int) -> list[dict[str, Any]]:
        self.filters.append(filter)
        return self.letters[:limit]

    def resolve_dead(self, resolutions: list[Any]) -> list[int]:
        self.resolved += resolutions
        return [id for id, _ in resolutions]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Celery("dead", broker="memory://", backend="memory://", set_as_current=False)
    made.finalize()
    return made


def use(app: Any, client: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setattr(type(app), "client", client)
    return client


def test_the_engine_is_asked_to_tell_only_if_somebody_wants_to_know(app: Any) -> None:
    assert task_signals.wanted(app) == []
    app.conf.dead_letter_webhook = "https://ops.example/hooks"
    assert task_signals.wanted(app) == ["dead"]

    def told(**_: Any) -> None: ...

    task_dead_lettered.connect(told)
    assert task_signals.wanted(app) == ["dead"]
    task_dead_lettered.disconnect(told)


def test_a_signal_and_a_webhook_tell_of_it(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = use(app, Client(), monkeypatch)
    app.conf.dead_letter_webhook = {"url": "https://ops.example/hooks", "secret": "ops"}
    told: list[Any] = []

    def note(**given: Any) -> None:
        told.append(given)

    task_dead_lettered.connect(note)
    dead_letters.arrived(app, execution(), "failed\x1fValueError('x')\x1fTraceback\n")
    dead_letters.arrived(app, execution("celeriac.http"), "failed\x1fwhy")
    task_dead_lettered.disconnect(note)

    first = told[0]
    assert (first["name"], first["task_id"], first["reason"], first["queue"]) == ("t", "i", "failed", "q")
    assert (first["error"], first["traceback"]) == ("ValueError('x')", "Traceback\n")
    assert told[1]["traceback"] is None
    (message,) = client.published
    assert message.routing_key == "celeriac.webhooks"
    assert "task.dead_lettered" in message.body.decode()
    assert "Traceback" not in message.body.decode()


def letter(**given: Any) -> dict[str, Any]:
    usual = {
        "id": 7,
        "queue": "q",
        "reason": "failed",
        "detail": "ValueError('x')",
        "traceback": "",
        "crashes": 0,
        "died_ms": 1_700_000_000_000,
        "headers": {"task": "t", "id": "i", "retries": 3, "lang": "py"},
        "properties": {"content_type": "application/json", "content_encoding": "utf-8"},
        "body": b"[[1], {}, {}]",
    }
    return {**usual, **given}


def test_a_letter_is_sent_again_as_it_was_with_its_retries_at_nought(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = use(app, Client([letter(), letter(id=8, headers=None)]), monkeypatch)

    assert app.dead_letters.retry(queue="q") == 1
    assert app.dead_letters.retry([7], to_queue="other") == 1
    assert app.dead_letters.drop() == 2

    (_, first), (_, second), *dropped = client.resolved
    assert first.headers == {"task": "t", "id": "i", "retries": 0, "lang": "py"}
    assert (first.body, first.exchange, first.routing_key) == (b"[[1], {}, {}]", "", "q")
    assert second.routing_key == "other"
    assert dropped == [(7, None), (8, None)]
    assert client.filters == [{"queue": "q"}, {"ids": [7]}, {}]


def test_a_letter_tells_of_itself(app: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    use(app, Client([letter(), letter(body=b"\xff", properties={"timestamp": 1_699_999_999})]), monkeypatch)

    first, second = app.dead_letters.list(since=timedelta(hours=1), until=datetime(2030, 1, 1))

    assert isinstance(first, DeadLetter)
    assert (first.task, first.task_id, first.attempts, first.exception) == ("t", "i", 4, "ValueError")
    assert first.died_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert (first.sent_at, second.sent_at) == (None, datetime.fromtimestamp(1_699_999_999, UTC))
    with (tmp_path / "letters").open("w") as file:
        assert app.dead_letters.export(file) == 2
    lines = [json.loads(line) for line in (tmp_path / "letters").read_text().splitlines()]
    assert (lines[0]["body"], lines[1]["body_base64"]) == ("[[1], {}, {}]", "/w==")
    with pytest.raises(ValueError, match="there are crashed, "):
        app.dead_letters.list(reason="unlucky")
