"""Iterators, plain and async, over events between services and over what happens to tasks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from celeriac._core import topic_matches
from celeriac.app import emitted
from celeriac.app.emitted import Event
from celeriac.serialization.json import loads

if TYPE_CHECKING:
    from celeriac._core import Listener
    from celeriac.app.base import Celery

    Message = tuple[dict[str, Any], dict[str, Any], bytes]

__all__ = ["TYPES", "Subscription", "TaskEvent", "TaskStream"]

logger = logging.getLogger("celeriac.events")

T = TypeVar("T")

#: What the stream tells of tasks.
TYPES = (
    "started",
    "progress",
    "succeeded",
    "failed",
    "retried",
    "revoked",
    "rejected",
    "ignored",
    "stalled",
    "dead-lettered",
)


class _Heard(Iterator[T], AsyncIterator[T], Generic[T]):
    """Hears until it is closed. Used by one thread, or one coroutine, at a time; closed by any."""

    def __init__(self, listener: Listener, timeout: float | None) -> None:
        self._listener = listener
        self._timeout = timeout
        self._closed = False
        # What a coroutine that was cancelled was waiting for: the next one gets it, so that nothing is lost.
        self._pending: asyncio.Future[Any] | None = None

    def _read(self, message: Message) -> T | None:
        """What a message says; None: it is not wanted."""
        raise NotImplementedError

    @property
    def missed(self) -> int:
        """How many events were dropped, since they came faster than they were taken."""
        return self._listener.missed

    # -- plain

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        until = self._until()
        while not self._closed:
            message = self._listener.receive(_left(until))
            if message is None:
                break
            found = self._read(message)
            if found is not None:
                return found
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening; an iteration elsewhere ends."""
        if not self._closed:
            self._closed = True
            self._listener.close()

    # -- for coroutines

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        until = self._until()
        while not self._closed:
            message = await self._receive(_left(until))
            if message is None:
                break
            found = self._read(message)
            if found is not None:
                return found
        raise StopAsyncIteration

    async def _receive(self, timeout: float | None) -> Message | None:
        from celeriac.result import _aio

        listener = self._listener
        if self._pending is None:
            waiting = _aio.call(lambda at, token: listener.receive_later(timeout, at, token))
            self._pending = asyncio.ensure_future(waiting)
        message: Message | None = await asyncio.shield(self._pending)
        self._pending = None
        return message

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """`close` for coroutines."""
        if self._pending is not None:
            self._pending.cancel()
        await asyncio.to_thread(self.close)

    def _until(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())


class Subscription(_Heard[Event]):
    """Events between services, from now on. Made by `app.subscribe`."""

    def __init__(self, app: Celery, patterns: tuple[str, ...], timeout: float | None, buffer: int) -> None:
        from celeriac.app.handlers import read_patterns

        self._patterns = list(read_patterns(patterns)) or ["#"]
        super().__init__(app.client.subscribe(emitted.EXCHANGE, self._patterns, buffer), timeout)

    def _read(self, message: Message) -> Event | None:
        try:
            body = loads(message[2])
            event = Event(body["args"][0] if isinstance(body, dict) else body[0][0])
            type = event["type"]
        except (ValueError, LookupError, TypeError):
            logger.warning("A message to %s is no event: %.200r", emitted.EXCHANGE, message[2])
            return None
        return event if any(topic_matches(pattern, type) for pattern in self._patterns) else None


class TaskEvent(dict[str, Any]):
    """Something that happened to a task: a mapping whose values are attributes as well; what it has not is None.

    Attributes:
        type: One of `TYPES`.
        id: Of the task.
        task: Its name.
        worker: Who tells it.
        queue: Where its message was.
        time: Unix time in seconds.
        runtime: Seconds that it ran.
        result: What it returned, as a text that may be cut.
        exception: What it raised, likewise.
        reason: Why it was revoked, stalled or put aside.
        state: What it said of itself (`update_state`), with `meta`.
        cursor: Where it is in the stream; None on brokers that keep none.
        gap: Whether events before it were gone before they could be read.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.get(name)


class TaskStream(_Heard[TaskEvent]):
    """What happens to tasks. Made by `app.task_stream`."""

    def __init__(
        self,
        app: Celery,
        after: str | None,
        types: str | Iterable[str] | None,
        tasks: str | Iterable[str] | None,
        timeout: float | None,
        buffer: int,
    ) -> None:
        self._types = _listed(types)
        self._tasks = _listed(tasks)
        if self._types and (strange := set(self._types) - set(TYPES)):
            raise ValueError(f"there are no events of type {min(strange)!r}: they are {', '.join(TYPES)}")
        client = app.client
        #: Of the last event that was looked at, wanted or not: what to go on after. None on brokers that keep no stream.
        self.cursor = client.stream_end() if after is None else after
        super().__init__(client.stream(self.cursor, buffer), timeout)

    def _read(self, message: Message) -> TaskEvent | None:
        headers, _, data = message
        cursor, gap = headers.get("cursor"), bool(headers.get("gap"))
        self.cursor = cursor or self.cursor
        if gap:
            logger.warning(
                "Events were gone from the stream of tasks before they were read: task_stream_max keeps more"
            )
        event = TaskEvent(loads(data), cursor=cursor, gap=gap)
        if self._types is not None and event["type"] not in self._types:
            return None
        if self._tasks is not None and not any(fnmatchcase(event["task"], name) for name in self._tasks):
            return None
        return event


def _listed(names: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    return (names,) if isinstance(names, str) else tuple(names)
