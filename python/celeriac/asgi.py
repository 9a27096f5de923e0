"""Status, cancel and live progress of tasks as an ASGI application, for FastAPI, Starlette, Quart, Django and others.

Needs no framework: mount it, or serve it alone.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from celeriac.web import Answer, EventStream, TaskViews, allow_all, check_auth
from celeriac.web.access import is_forged
from celeriac.web.answers import problem
from celeriac.web.dead_letters import MOST_BYTES, RESOLVING
from celeriac.web.events import EVENT_HEADERS
from celeriac.web.views import as_answer, refuse_ids, said_yes

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["TasksApp", "allow_all", "tasks_app"]

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def tasks_app(celery_app: Celery, *, auth: Callable[..., Any], **options: Any) -> TasksApp:
    """An ASGI application that shows the tasks of an app.

    Args:
        celery_app: The Celery app.
        auth: Called as `auth(action, task_id, scope)`, may be a coroutine function; what it gives says whether that is
            allowed. Actions: status, events, cancel, terminate; of dead letters dead_letters, retry_dead_letters and
            drop_dead_letters, with an empty task id. `celeriac.web.allow_all` allows everything.
        **options: `heartbeat`, `retry`, `lifetime`, `max_ids`, `max_streams`, `tracebacks`, `dead_letters`: see
            `celeriac.web.TaskViews`.

    Raises:
        ImproperlyConfigured: There is no `auth`.

    Example:
        >>> app = FastAPI()
        >>> app.mount("/tasks", tasks_app(celery_app, auth=may))
    """
    return TasksApp(celery_app, auth, TaskViews(lambda: celery_app, **options))


class TasksApp:
    """The application: `GET /<id>`, `DELETE /<id>`, `POST /<id>/cancel`, `GET /<id>/events`, `GET /events?id=`."""

    def __init__(self, celery_app: Celery, auth: Callable[..., Any], views: TaskViews) -> None:
        self._celery_app = celery_app
        self._auth = check_auth(auth, "tasks_app")
        self.views = views

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the life of the server."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            raise NotImplementedError(f"no {scope['type']} here, only HTTP")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            answer = await self._answer(scope, receive, headers)
        except Exception as exc:
            found = as_answer(exc)
            if found is None:
                raise
            answer = found
        if isinstance(answer, EventStream):
            await self._stream(answer, scope, receive, send)
        else:
            await _send_answer(answer, scope, send)

    async def _answer(self, scope: Scope, receive: Receive, headers: dict[str, str]) -> Answer | EventStream:
        method = scope["method"]
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        path = _path(scope)
        first, _, how = path.partition("/")
        if first == "dead-letters" and self.views.dead_letters is not None:
            found = _route_dead_letters(method, how)
        else:
            found = _route(method, path)
        if found is None:
            return problem(404, "no such page")
        action, task_id = found
        if action == "method":
            return Answer(405, {"error": "this method is not allowed here"}, {"Allow": task_id or ""})
        if is_forged(method, headers):
            return problem(403, "another site may not ask for this")
        if (letters := self.views.dead_letters) is not None and first == "dead-letters":
            if not await self._may(action, "", scope):
                return problem(403, "not allowed")
            if not how:
                return await asyncio.to_thread(letters.list, {name: values[-1] for name, values in query.items()})
            body = await _body(receive)
            return await asyncio.to_thread(letters.resolve, how, headers.get("content-type", ""), body)
        return await self._answer_task(action, task_id, scope, query, headers)

    async def _answer_task(
        self, action: str, task_id: str | None, scope: Scope, query: dict[str, list[str]], headers: dict[str, str]
    ) -> Answer | EventStream:
        task_ids = list(dict.fromkeys(query.get("id", []))) if task_id is None else [task_id]
        if (refused := refuse_ids(task_ids, self.views.max_ids)) is not None:
            return refused
        if action == "cancel" and said_yes({name: values[-1] for name, values in query.items()}, "terminate"):
            action = "terminate"
        for one in task_ids:
            if not await self._may(action, one, scope):
                return problem(403, "not allowed")
        if action == "status":
            return await self.views.status_later(task_ids[0], headers.get("if-none-match"))
        if action == "events":
            return await self.views.open_events_later(task_ids, headers.get("last-event-id"))
        cancel = partial(self.views.cancel, task_ids[0], terminate=action == "terminate")
        return await asyncio.to_thread(cancel)

    async def _may(self, action: str, task_id: str, scope: Scope) -> bool:
        allowed = self._auth(action, task_id, scope)
        return bool(await allowed if inspect.isawaitable(allowed) else allowed)

    async def _stream(self, stream: EventStream, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _raw(EVENT_HEADERS)})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return

        async def write() -> None:
            async with aclosing(self.views.chunks_later(stream)) as chunks:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        writing, gone = asyncio.ensure_future(write()), asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait([writing, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (writing, gone):
                one.cancel()
            results = await asyncio.gather(writing, gone, return_exceptions=True)
        failure = results[0]
        if isinstance(failure, Exception) and not isinstance(failure, OSError):
            # The response has begun; the client comes back.
            logger.warning("a stream of events has ended early: %r", failure)


def _path(scope: Scope) -> str:
    """Below where it is mounted: newer servers leave the mount's path in `path`."""
    path, root = scope["path"], scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        path = path[len(root) :]
    return str(path).strip("/")


def _route(method: str, path: str) -> tuple[str, str | None] | None:
    """What is asked for, and of which task; ("method", those that are allowed) for another method."""
    parts = path.split("/")
    methods: dict[str, str]
    task_id: str | None
    if parts == ["events"]:
        methods, task_id = {"GET": "events", "HEAD": "events"}, None
    elif len(parts) == 1 and parts[0]:
        methods, task_id = {"GET": "status", "HEAD": "status", "DELETE": "cancel"}, parts[0]
    elif len(parts) == 2 and parts[1] == "events":
        methods, task_id = {"GET": "events", "HEAD": "events"}, parts[0]
    elif len(parts) == 2 and parts[1] == "cancel":
        methods, task_id = {"POST": "cancel"}, parts[0]
    else:
        return None
    if method not in methods:
        return "method", ", ".join(methods)
    return methods[method], task_id


def _route_dead_letters(method: str, how: str) -> tuple[str, str | None] | None:
    """The same for dead letters."""
    if not how:
        return ("dead_letters", None) if method in ("GET", "HEAD") else ("method", "GET, HEAD")
    if how not in RESOLVING:
        return None
    return (RESOLVING[how], None) if method == "POST" else ("method", "POST")


async def _body(receive: Receive) -> bytes:
    """The body of a request; one that is too large ends where it became so, and is no JSON then."""
    body = b""
    while len(body) <= MOST_BYTES:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    return body[:MOST_BYTES]


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _send_answer(answer: Answer, scope: Scope, send: Send) -> None:
    body = answer.body
    headers = answer.headers if answer.status in (204, 304) else {**answer.headers, "Content-Length": str(len(body))}
    await send({"type": "http.response.start", "status": answer.status, "headers": _raw(headers)})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
