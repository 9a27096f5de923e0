"""The tasks of an app over HTTP: the same routes and answers of the ASGI application and of Flask's blueprint."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celeriac.exceptions import ImproperlyConfigured
from celeriac.result.record import build_record

from ..servers.run import until
from .conftest import Reader, Site, wait_until
from .test_many_streams import SITES


@pytest.fixture(scope="module", params=["asgi", "flask threads"])
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Either of them, on an embedded store."""
    folder = tmp_path_factory.mktemp("site")
    url = f"sqlite:///{folder}/tasks.db"
    site = Site(folder, url, url, SITES[request.param], HEARTBEAT="0.2")
    yield site
    site.close()


@pytest.fixture
def site(started: Site) -> Iterator[Site]:
    """The same, with nothing stored."""
    yield started
    started.celery.client.forget(["a", "b", "done", "failed", "own", "runs", "waits"])


def ask(site: Site, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return (
        response.status,
        {k.lower(): v for k, v in response.getheaders()},
        json.loads(body) if body[:1] in (b"{", b"[") else None,
    )


def store(site: Site, task_id: str, state: str, value: object = None) -> None:
    site.celery.client.store([build_record(site.celery, task_id, state, value)])


def test_a_status_tells_state_progress_result_and_error(site: Site) -> None:
    store(site, "waits", "PENDING")
    store(site, "runs", "PROGRESS", {"done": 3, "total": 4, "message": "three"})
    store(site, "own", "UPLOADING", {"file": "a.png"})
    store(site, "done", "SUCCESS", {"answer": [42, float("inf")]})
    store(site, "failed", "FAILURE", ValueError("no stock"))

    status, headers, waits = ask(site, "GET", "/tasks/waits")
    assert (status, waits["state"], waits["ready"], waits["known"]) == (200, "PENDING", False, True)
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert headers["retry-after"] == "1"
    assert ask(site, "GET", "/tasks/runs")[2]["progress"] == {"done": 3, "total": 4, "message": "three"}
    assert ask(site, "GET", "/tasks/own")[2]["progress"] == {"file": "a.png"}
    status, headers, done = ask(site, "GET", "/tasks/done")
    assert (done["ready"], done["result"], done["error"]) == (True, {"answer": [42, "inf"]}, None)
    assert "retry-after" not in headers
    assert ask(site, "GET", "/tasks/done", If_None_Match=headers["etag"])[0] == 304
    failed = ask(site, "GET", "/tasks/failed")[2]
    assert (failed["result"], failed["error"]) == (None, {"type": "ValueError", "message": "no stock"})


def test_what_was_never_sent_is_not_found(site: Site) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/events")):
        assert ask(site, method, f"/tasks/nobody{path}")[0] == 404
    assert ask(site, "GET", "/tasks/events?id=nobody&id=nothing")[0] == 404
    assert ask(site, "GET", f"/tasks/{'x' * 300}")[0] == 404
    assert ask(site, "GET", "/tasks/events")[0] == 400
    assert ask(site, "GET", "/tasks/events?" + "&".join(f"id={number}" for number in range(101)))[0] == 400
    assert ask(site, "POST", "/tasks/nobody/events")[0] == 405
    assert ask(site, "GET", "/tasks/a/b/c")[0] == 404


def test_a_task_is_cancelled_but_not_one_that_has_ended(site: Site) -> None:
    store(site, "waits", "PENDING")
    store(site, "done", "SUCCESS", 1)

    assert ask(site, "DELETE", "/tasks/done")[0] == 409
    assert ask(site, "DELETE", "/tasks/waits", Sec_Fetch_Site="cross-site")[0] == 403
    listener = site.celery.client.listen("celery.pidbox")
    status, _, answer = ask(site, "DELETE", "/tasks/waits")
    assert (status, answer["cancel"]) == (202, "revoke")
    command = until(lambda: listener.receive(1), 30, "the command is heard")
    assert json.loads(command[2])["arguments"] == {"task_id": "waits", "terminate": False, "signal": "SIGTERM"}
    assert ask(site, "POST", "/tasks/waits/cancel?terminate=1")[2]["cancel"] == "terminate"
    listener.close()


def test_a_stream_has_the_headers_and_the_form_of_server_sent_events(site: Site) -> None:
    store(site, "a", "PENDING")
    reader = Reader(site.port, "/tasks/a/events")

    async def follow() -> None:
        running = asyncio.ensure_future(reader.run())
        await wait_until(lambda: reader.states == ["PENDING"], "the first state")
        await wait_until(lambda: reader.comments, "a heartbeat")
        await asyncio.to_thread(store, site, "a", "PROGRESS", {"done": 1})
        await wait_until(lambda: reader.states == ["PENDING", 1], "progress")
        await asyncio.to_thread(store, site, "a", "FAILURE", KeyError("x"))
        await asyncio.wait_for(running, 30)

    asyncio.run(follow())
    assert reader.head["content-type"] == "text/event-stream; charset=utf-8"
    assert reader.head["cache-control"] == "no-cache, no-transform"
    assert reader.head["x-accel-buffering"] == "no"
    assert "content-length" not in reader.head
    assert reader.retry == 2000
    assert [event.name for event in reader.events] == ["message", "message", "message", "end"]
    assert reader.events[2].data["error"]["type"] == "KeyError"


def test_a_client_that_comes_back_gets_what_it_has_not_seen_and_nothing_twice(site: Site) -> None:
    store(site, "a", "PROGRESS", {"done": 1})
    store(site, "b", "PROGRESS", {"done": 5})

    async def first() -> str:
        reader = Reader(site.port, "/tasks/events?id=a&id=b")
        running = asyncio.ensure_future(reader.run())
        await wait_until(lambda: len(reader.states) == 2, "both states")
        running.cancel()
        return reader.events[-1].id

    async def again(last: str) -> Reader:
        headers = {"Last-Event-ID": last}
        return await asyncio.wait_for(Reader(site.port, "/tasks/events?id=a&id=b", headers).run(), 30)

    last = asyncio.run(first())
    store(site, "b", "SUCCESS", "b is done")
    store(site, "a", "PROGRESS", {"done": 2})
    store(site, "a", "SUCCESS", "a is done")
    second = asyncio.run(again(last))
    third = asyncio.run(again(second.events[-1].id))

    assert sorted(event.data["result"] for event in second.events if event.name == "message") == [
        "a is done",
        "b is done",
    ]
    assert second.events[-1].name == "end"
    # A browser does not come back after this.
    assert (third.status, third.events) == (204, [])


def test_a_slow_client_misses_states_in_between_and_never_the_last(site: Site) -> None:
    store(site, "a", "PENDING")

    async def follow() -> Reader:
        reader = Reader(site.port, "/tasks/a/events")
        running = asyncio.ensure_future(reader.run())
        await wait_until(lambda: reader.states, "the first state")
        # This loop reads nothing meanwhile.
        for number in range(300):
            store(site, "a", "PROGRESS", {"done": number, "more": "x" * 2000})
        store(site, "a", "SUCCESS", "end")
        return await asyncio.wait_for(running, 30)

    reader = asyncio.run(follow())

    done = [state for state in reader.states if isinstance(state, int)]
    assert done == sorted(done)
    assert reader.states[-1] == "SUCCESS"
    assert reader.events[-1].name == "end"


def test_more_streams_than_are_allowed_are_told_to_come_later(start_site: Callable[..., Site], tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    site = start_site(url, url, SITES["asgi"], MAX_STREAMS="1")
    store(site, "a", "PENDING")

    async def follow() -> Reader:
        first = Reader(site.port, "/tasks/a/events")
        running = asyncio.ensure_future(first.run())
        await wait_until(lambda: first.states, "the first state")
        second = await Reader(site.port, "/tasks/a/events").run()
        running.cancel()
        return second

    refused = asyncio.run(follow())

    assert (refused.status, refused.head["retry-after"]) == (503, "2")
    # One that has gone leaves its place.
    until(lambda: site.get("/cost")["streams"] == 0, 30, "the first stream is closed")


def test_without_auth_there_is_no_application() -> None:
    from celeriac import Celery
    from celeriac.asgi import tasks_app
    from celeriac.flask import tasks_blueprint

    with pytest.raises(ImproperlyConfigured, match="allow_all"):
        tasks_app(Celery("none", broker="memory://", set_as_current=False), auth=None)  # type: ignore[arg-type]
    with pytest.raises(ImproperlyConfigured, match="who may see and cancel"):
        tasks_blueprint()
