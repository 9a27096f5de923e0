"""Who may do what, and what is answered when something is not there: by Flask's blueprint and by the ASGI application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flask
import pytest

from celeriac import Celery, _state
from celeriac.asgi import tasks_app
from celeriac.exceptions import OperationalError
from celeriac.flask import Celeriac, allow_all, tasks_blueprint
from celeriac.result.record import build_record
from celeriac.result.stream import Followed
from celeriac.web.answers import describe, to_json


@pytest.fixture
def celery_app(tmp_path: Path) -> Iterator[Celery]:
    url = f"memory://{tmp_path.name}"
    with Celery("web", broker=url, backend=url, set_as_current=False) as app:
        app.client.store([build_record(app, "mine", "SUCCESS", 1), build_record(app, "theirs", "SUCCESS", 2)])
        yield app
    _state.set_default_app(None)


def client_of(celery_app: Celery | None, auth: Any, **config: Any) -> Any:
    app = flask.Flask("web")
    app.config.update(config)
    app.register_blueprint(tasks_blueprint(auth=auth, celery_app=celery_app))
    return app.test_client()


async def call(
    app: Any, method: str, path: str, query: str = "", root: str = "", body: str = "", **headers: str
) -> tuple[int, Any]:
    """One request of an ASGI application."""
    sent: list[Any] = []

    rest = [body[start : start + 1000].encode() for start in range(0, len(body), 1000)] or [b""]

    async def receive() -> Any:
        if rest:
            return {"type": "http.request", "body": rest.pop(0), "more_body": bool(rest)}
        return await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": root,
        "query_string": query.encode(),
        "headers": raw,
        "user": "me",
    }
    await asyncio.wait_for(app(scope, receive, send), 30)
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(answer) if answer[:1] == b"{" else answer


def asgi_response(app: Any, method: str, path: str, query: str, body: str = "", kind: str = "") -> Any:
    """As Flask's client gives it."""
    status, found = asyncio.run(call(app, method, f"/{path}", query, body=body, content_type=kind))
    return SimpleNamespace(status_code=status, json=found)


def test_flask_asks_for_each_task_and_action(celery_app: Celery) -> None:
    asked = []

    def may(action: str, task_id: str) -> bool:
        asked.append((action, task_id, flask.request.method))
        return task_id == "mine"

    client = client_of(celery_app, may)

    assert client.get("/tasks/mine").json["result"] == 1
    assert client.get("/tasks/theirs").status_code == 403
    assert client.get("/tasks/theirs").json == {"error": "not allowed"}
    assert client.get("/tasks/events?id=mine&id=theirs").status_code == 403
    assert client.delete("/tasks/theirs").status_code == 403
    assert client.post("/tasks/theirs/cancel?terminate=true").status_code == 403
    assert asked == [
        ("status", "mine", "GET"),
        ("status", "theirs", "GET"),
        ("status", "theirs", "GET"),
        ("events", "mine", "GET"),
        ("events", "theirs", "GET"),
        ("cancel", "theirs", "DELETE"),
        ("terminate", "theirs", "POST"),
    ]


def test_auth_of_flask_may_abort(celery_app: Celery) -> None:
    client = client_of(celery_app, lambda action, task_id: flask.abort(401))

    assert client.get("/tasks/mine").status_code == 401


def test_asgi_asks_a_coroutine_function_that_sees_the_connection(celery_app: Celery) -> None:
    async def may(action: str, task_id: str, scope: Any) -> bool:
        await asyncio.sleep(0)
        return (action, task_id, scope["user"]) == ("status", "mine", "me")

    app = tasks_app(celery_app, auth=may)

    async def ask() -> list[int]:
        return [
            (await call(app, *request))[0]
            for request in (
                ("GET", "/mine"),
                ("GET", "/theirs"),
                ("GET", "/mine/events"),
                ("DELETE", "/mine"),
                ("HEAD", "/mine"),
            )
        ]

    assert asyncio.run(ask()) == [200, 403, 403, 403, 200]


def test_asgi_finds_its_path_below_a_mount(celery_app: Celery) -> None:
    app = tasks_app(celery_app, auth=allow_all)

    assert asyncio.run(call(app, "GET", "/api/tasks/mine", root="/api/tasks"))[0] == 200
    assert asyncio.run(call(app, "GET", "/mine", root="/api/tasks"))[0] == 200
    assert asyncio.run(call(app, "GET", "/", root="")) == (404, {"error": "no such page"})
    assert asyncio.run(call(app, "PUT", "/mine"))[0] == 405


def test_asgi_lives_with_its_server(celery_app: Celery) -> None:
    said: list[str] = []
    heard = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, str]:
        return {"type": next(heard)}

    async def send(message: Any) -> None:
        said.append(message["type"])

    app = tasks_app(celery_app, auth=allow_all)
    asyncio.run(app({"type": "lifespan"}, receive, send))

    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(NotImplementedError, match="websocket"):
        asyncio.run(app({"type": "websocket"}, receive, send))


def test_results_that_are_off_or_away_are_said(tmp_path: Path) -> None:
    with Celery("off", broker="memory://", set_as_current=False) as off:
        assert client_of(off, allow_all).get("/tasks/x").status_code == 501
    url = "redis://127.0.0.1:1/0"
    with Celery("away", broker="memory://", backend=url, set_as_current=False) as away:
        away.conf.broker_connection_timeout = 0.2
        away.conf.result_backend_transport_options = {"socket_connect_timeout": 0.2}
        answer = client_of(away, allow_all).get("/tasks/x")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")


def test_a_stream_ends_without_its_end_when_the_backend_stays_away(
    celery_app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> Any:
        raise OperationalError("the server is away")

    monkeypatch.setattr(Followed, "next", away)
    monkeypatch.setattr(Followed, "next_later", away)
    answer = client_of(celery_app, allow_all).get("/tasks/waits/events")
    status, body = asyncio.run(call(tasks_app(celery_app, auth=allow_all), "GET", "/waits/events"))

    for text in (answer.get_data(), body):
        assert b'"PENDING"' in text
        assert b"event: end" not in text
    assert (answer.status_code, status) == (200, 200)
    assert caplog.text.count("its client comes back: the server is away") == 2


def test_the_blueprint_needs_an_application_that_was_set_up() -> None:
    client = client_of(None, allow_all, TESTING=True)

    with pytest.raises(RuntimeError, match="init_app"):
        client.get("/tasks/x")


def test_the_blueprint_shows_tasks_of_its_application(celery_app: Celery) -> None:
    app = flask.Flask("web")
    Celeriac(app, celery_app=celery_app)
    app.register_blueprint(tasks_blueprint(auth=allow_all, url_prefix="/work", name="work"))

    assert app.test_client().get("/work/mine").json["result"] == 1
    with app.test_request_context():
        assert flask.url_for("work.cancel", task_id="x", _method="POST") == "/work/x/cancel"
        assert flask.url_for("work.events_of_many", id=["a", "b"]) == "/work/events?id=a&id=b"


class Letters:
    """Takes the place of `app.dead_letters`."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def list(self, limit: int, **filters: Any) -> Any:
        self.calls.append(("list", limit, filters))
        if filters.get("reason") == "odd":
            raise ValueError("no message is dead for the reason 'odd'")
        names = ("id", "queue", "reason", "error", "task", "task_id", "attempts", "crashes", "sent_at", "died_at")
        secret = {"body": b"secret", "headers": {"argsrepr": "secret"}, "traceback": "secret"}
        return [
            SimpleNamespace(**{**dict.fromkeys(names), **secret, "id": 7, "died_at": datetime(2026, 1, 2, tzinfo=UTC)})
        ]

    def retry(self, ids: Any) -> int:
        self.calls.append(("retry", ids))
        return len(ids)

    def drop(self, ids: Any) -> int:
        self.calls.append(("drop", ids))
        return len(ids)


def test_dead_letters_are_shown_sent_again_and_dropped_if_wanted(tmp_path: Path) -> None:
    class WithLetters(Celery):
        dead_letters: Any = Letters()

    actions: list[Any] = []

    def may(action: str, task_id: str, *scope: Any) -> bool:
        actions.append((action, task_id))
        return True

    with WithLetters("dead", broker=f"memory://{tmp_path.name}", set_as_current=False) as celery_app:
        web = flask.Flask("web")
        web.register_blueprint(tasks_blueprint(auth=may, celery_app=celery_app, dead_letters=True))
        client, app = web.test_client(), tasks_app(celery_app, auth=may, dead_letters=True)

        for get, post in (
            (
                lambda path, query: client.get(f"/tasks/{path}?{query}"),
                lambda path, body, kind: client.post(f"/tasks/{path}", data=body, content_type=kind),
            ),
            (
                lambda path, query: asgi_response(app, "GET", path, query),
                lambda path, body, kind: asgi_response(app, "POST", path, "", body, kind),
            ),
        ):
            listed = get("dead-letters", "queue=mail&limit=5")
            assert listed.json["dead_letters"][0]["id"] == 7
            assert "secret" not in json.dumps(listed.json)
            assert get("dead-letters", "reason=odd").status_code == 400
            assert get("dead-letters", "limit=many").status_code == 400
            assert post("dead-letters/retry", '{"ids": [1, 2]}', "application/json").json == {"count": 2}
            assert post("dead-letters/drop", '{"ids": [3]}', "application/json; charset=utf-8").json == {"count": 1}
            for body in ("{}", "[]", '{"ids": []}', '{"ids": "all"}', '{"ids": [true]}', "x" * 100_000):
                assert post("dead-letters/drop", body, "application/json").status_code in (400, 413), body[:20]
            assert post("dead-letters/drop", '{"ids": [3]}', "text/plain").status_code == 415
            assert post("dead-letters", "", "application/json").status_code == 405

        assert celery_app.dead_letters.calls == 2 * [
            ("list", 5, {"queue": "mail"}),
            ("list", 100, {"reason": "odd"}),
            ("retry", [1, 2]),
            ("drop", [3]),
        ]
    assert set(actions) == {("dead_letters", ""), ("retry_dead_letters", ""), ("drop_dead_letters", "")}


def test_dead_letters_are_not_shown_unless_wanted(celery_app: Celery) -> None:
    # It is then the id of a task like any other.
    assert client_of(celery_app, allow_all).get("/tasks/dead-letters").json["state"] == "PENDING"
    assert client_of(celery_app, allow_all).post("/tasks/dead-letters/drop", json={"ids": [1]}).status_code == 404
    assert asyncio.run(call(tasks_app(celery_app, auth=allow_all), "POST", "/dead-letters/drop"))[0] == 404


def test_where_a_task_failed_is_told_only_if_wanted(celery_app: Celery) -> None:
    record = build_record(celery_app, "t", "FAILURE", KeyError("x"), traceback="Traceback: secret")

    assert "secret" not in to_json(describe(celery_app, "t", record))
    assert describe(celery_app, "t", record, tracebacks=True)["error"]["traceback"] == "Traceback: secret"


def test_a_record_that_cannot_be_read_is_still_a_state(celery_app: Celery) -> None:
    from celeriac._core import ResultRecord

    record = ResultRecord("t", "SUCCESS", b"\x80\x04.", "application/x-python-serialize")

    told = describe(celery_app, "t", record)

    assert (told["state"], told["ready"], told["result"]) == ("SUCCESS", True, None)
    assert told["error"]["type"] == "UnreadableResult"


def test_json_is_one_line_that_every_browser_reads() -> None:
    class Own:
        def __str__(self) -> str:
            return "own"

    moment = datetime(2026, 1, 2, tzinfo=UTC)
    nested: Any = []
    nested.append(nested)

    assert json.loads(to_json({"at": moment, "own": Own(), "set": {1}, "raw": b"\xff"})) == {
        "at": "2026-01-02T00:00:00+00:00",
        "own": "own",
        "set": [1],
        "raw": "\ufffd",
    }
    assert json.loads(to_json({(1, 2): [float("nan"), {"deep": float("-inf")}], "text": "a\nb"})) == {
        "(1, 2)": ["nan", {"deep": "-inf"}],
        "text": "a\nb",
    }
    assert "\n" not in to_json({"text": "a\nb"})
    assert to_json(nested).startswith("[")
