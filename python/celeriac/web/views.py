"""The views: from the parts of a request to an answer, or to a stream of events. No framework, no sockets."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.app.pending import knows_all
from celeriac.exceptions import OperationalError
from celeriac.result.base import client_of
from celeriac.result.stream import mark
from celeriac.web.answers import Answer, describe, problem
from celeriac.web.dead_letters import DeadLetterViews
from celeriac.web.events import EventStream

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["TaskViews", "as_answer", "refuse_ids"]

#: Longer ones are nobody's: an id is 36 characters.
_LONGEST_ID = 255


class TaskViews:
    """Status, cancel and events of tasks, for a web application.

    Args:
        get_app: Gives the Celery app of a request.
        heartbeat: Seconds between comments in a stream that is silent.
        retry: Seconds after which a browser that lost its stream comes back.
        lifetime: Seconds after which a stream ends; the browser comes back, and is asked again who it is.
        max_ids: How many tasks one stream may follow.
        max_streams: How many streams may be open in this process; more are told to come back later.
        tracebacks: Tell where tasks failed. Off: it shows code and perhaps data.
        dead_letters: Show dead letters too, and let them be sent again and dropped: for operators.
    """

    def __init__(
        self,
        get_app: Callable[[], Celery],
        *,
        heartbeat: float = 15.0,
        retry: float = 2.0,
        lifetime: float = 600.0,
        max_ids: int = 100,
        max_streams: int = 10_000,
        tracebacks: bool = False,
        dead_letters: bool = False,
    ) -> None:
        self._get_app = get_app
        self._times = {"heartbeat": heartbeat, "retry": retry, "lifetime": lifetime}
        self._retry = retry
        self.max_ids = max_ids
        self._max_streams = max_streams
        self._tracebacks = tracebacks
        # Streams that are open in this process. Written under the lock by threads that open and close them.
        self.streams = 0
        self._lock = threading.Lock()
        #: None: they are not shown.
        self.dead_letters = DeadLetterViews(get_app, tracebacks=tracebacks) if dead_letters else None

    # -- status

    def status(self, task_id: str, if_none_match: str | None = None) -> Answer:
        """`GET /<id>`: what is known of a task.

        Raises:
            OperationalError: The result backend is away; likewise below.
        """
        app = self._get_app()
        return self._status(app, task_id, client_of(app).read([task_id])[0], if_none_match)

    async def status_later(self, task_id: str, if_none_match: str | None = None) -> Answer:
        """The same for a coroutine."""
        app = self._get_app()
        record = await _read_later(app, task_id)
        if app.conf.large_payload_store:
            # A large result is fetched from a store of its own: a loop must not wait for that.
            from asyncio import to_thread

            return await to_thread(self._status, app, task_id, record, if_none_match)
        return self._status(app, task_id, record, if_none_match)

    def _status(self, app: Celery, task_id: str, record: Any, if_none_match: str | None) -> Answer:
        if record is None and knows_all(app):
            return _unknown(task_id)
        told = describe(app, task_id, record, tracebacks=self._tracebacks)
        tag = f'"{mark(record)}"'
        headers = {"ETag": tag} if told["ready"] else {"ETag": tag, "Retry-After": "1"}
        if if_none_match is not None and tag in (part.strip() for part in if_none_match.split(",")):
            return Answer(304, None, headers)
        return Answer(200, told, headers)

    # -- cancel

    def cancel(self, task_id: str, *, terminate: bool = False) -> Answer:
        """`DELETE /<id>` and `POST /<id>/cancel`: asks all workers not to run it.

        Args:
            task_id: Which.
            terminate: End it, too, if it runs already.
        """
        app = self._get_app()
        record = client_of(app).read([task_id])[0]
        if record is None and knows_all(app):
            return _unknown(task_id)
        state = states.PENDING if record is None else record.state
        if state in states.READY_STATES:
            return problem(409, "the task has ended", id=task_id, state=state)
        app.control.revoke(task_id, terminate=terminate)
        return Answer(202, {"id": task_id, "state": state, "cancel": "terminate" if terminate else "revoke"})

    # -- events

    def open_events(self, task_ids: Sequence[str], last_event_id: str | None = None) -> EventStream | Answer:
        """`GET /<id>/events`, `GET /events?id=..&id=..`: a stream, or an answer that there is none."""
        stream = self._new_stream(task_ids, last_event_id)
        if isinstance(stream, EventStream):
            stream.begin()
            return _opened(stream, task_ids)
        return stream

    async def open_events_later(
        self, task_ids: Sequence[str], last_event_id: str | None = None
    ) -> EventStream | Answer:
        """The same for a coroutine."""
        stream = self._new_stream(task_ids, last_event_id)
        if isinstance(stream, EventStream):
            await stream.begin_later()
            return _opened(stream, task_ids)
        return stream

    def _new_stream(self, task_ids: Sequence[str], last_event_id: str | None) -> EventStream | Answer:
        if self.streams >= self._max_streams:
            busy = problem(503, "too many streams are open")
            return Answer(503, busy.content, {"Retry-After": str(max(1, round(self._retry)))})
        app = self._get_app()
        return EventStream(
            app,
            task_ids,
            last_event_id,
            all_known=knows_all(app),
            tracebacks=self._tracebacks,
            **self._times,
        )

    def chunks(self, stream: EventStream) -> Iterator[bytes]:
        """The chunks of a stream, which counts as open meanwhile."""
        with self._counted():
            yield from stream.chunks()

    async def chunks_later(self, stream: EventStream) -> AsyncGenerator[bytes, None]:
        """The same for a coroutine."""
        with self._counted():
            async with aclosing(stream.chunks_later()) as chunks:
                async for chunk in chunks:
                    yield chunk

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self.streams += 1
        try:
            yield
        finally:
            with self._lock:
                self.streams -= 1


def refuse_ids(task_ids: Sequence[str], most: int) -> Answer | None:
    """An answer to ids that cannot be; None: they can."""
    if not task_ids:
        return problem(400, "no task is named: ?id=...&id=...")
    if len(task_ids) > most:
        return problem(400, f"{len(task_ids)} tasks are named, and one stream follows at most {most}")
    wrong = next((one for one in task_ids if not one or len(one) > _LONGEST_ID or not one.isprintable()), None)
    return None if wrong is None else problem(404, "no such task")


def as_answer(exc: Exception) -> Answer | None:
    """The answer to an error of ours; None: it is none of these."""
    if isinstance(exc, OperationalError):
        return Answer(503, {"error": "the result backend or the broker is away"}, {"Retry-After": "2"})
    if isinstance(exc, NotImplementedError):
        return problem(501, "this application keeps no results")
    return None


def said_yes(query: Mapping[str, str], name: str) -> bool:
    """Whether a parameter of a request says yes."""
    return str(query.get(name, "")).lower() in ("1", "true", "yes", "on")


async def _read_later(app: Celery, task_id: str) -> Any:
    from celeriac.result import _aio

    client = client_of(app)
    records = await _aio.call(lambda completions, token: client.read_later([task_id], completions, token))
    return records[0]


def _unknown(task_id: str) -> Answer:
    return problem(404, "no such task, or its result has expired", id=task_id)


def _opened(stream: EventStream, task_ids: Sequence[str]) -> EventStream | Answer:
    if len(stream.unknown) == len(set(task_ids)):
        return _unknown(task_ids[0])
    # 204 tells a browser not to come back.
    return Answer(204) if stream.is_over else stream
