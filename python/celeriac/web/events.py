"""Server-sent events: the states of tasks as a stream of text (WHATWG HTML, "Server-sent events")."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from celeriac.exceptions import OperationalError
from celeriac.result.stream import Followed
from celeriac.web.answers import describe, to_json

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["EVENT_HEADERS", "EventStream"]

logger = logging.getLogger(__name__)

EVENT_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    # nginx and others pass on what comes as it comes.
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}
_HEARTBEAT = b":\n\n"
#: What one stream has waiting for its client besides: see `Followed`.
_END = "end"


class EventStream:
    """The states of some tasks, for one client.

    1. `begin` reads what is stored; `is_over` then says that this client has seen the end of all of them.
    2. Chunks: how soon to come back, what the client has not seen, then each state as it comes; a comment now and then.
    3. It ends with an event `end` when all tasks have ended; or without one after `lifetime`, or when the result backend
       has been away for long, and the client comes back.

    The id of an event names the last state of each task that was sent, so that a client that comes back gets what it has
    not seen.

    Args:
        app: Whose result backend.
        task_ids: Which tasks.
        last_event_id: What the client saw last, as it says.
        all_known: An id without a record was never sent.
        heartbeat: Seconds between comments while nothing happens.
        retry: Seconds after which a client comes back that has lost the connection.
        lifetime: Seconds after which the stream ends in any case.
        tracebacks: Tell where a task failed, too.
    """

    def __init__(
        self,
        app: Celery,
        task_ids: Sequence[str],
        last_event_id: str | None = None,
        *,
        all_known: bool = False,
        heartbeat: float = 15.0,
        retry: float = 2.0,
        lifetime: float = 600.0,
        tracebacks: bool = False,
    ) -> None:
        self._app = app
        self._followed = Followed(app, task_ids)
        self._last_event_id = last_event_id
        self._all_known = all_known
        self._heartbeat, self._retry, self._lifetime = heartbeat, retry, lifetime
        self._tracebacks = tracebacks
        # Large results are fetched from a store of their own: a loop must not wait for that.
        self._fetches = bool(app.conf.large_payload_store)
        self._open = set(self._followed.task_ids)
        # Of each task, the state that this client has got.
        self._sent: dict[str, str] = {}
        self._first: list[bytes] = []
        #: Tasks that were never sent.
        self.unknown: set[str] = set()

    # -- beginning

    def begin(self) -> None:
        """Reads what is stored.

        Raises:
            OperationalError: The result backend is away.
        """
        self._take_first(self._followed.begin())

    async def begin_later(self) -> None:
        """The same for a coroutine."""
        records = await self._followed.begin_later()
        if self._fetches:
            from asyncio import to_thread

            await to_thread(self._take_first, records)
        else:
            self._take_first(records)

    @property
    def is_over(self) -> bool:
        """This client has seen the end of all tasks: it need not come back."""
        return not self._open and not self._first

    def _take_first(self, records: Sequence[Any]) -> None:
        task_ids = self._followed.task_ids
        seen = (self._last_event_id or "").split(".")
        known = dict(zip(task_ids, seen, strict=True)) if self._last_event_id and len(seen) == len(task_ids) else {}
        for task_id, record in zip(task_ids, records, strict=True):
            mark = self._followed.marks[task_id]
            if record is None and self._all_known:
                self.unknown.add(task_id)
            told = describe(self._app, task_id, record, tracebacks=self._tracebacks)
            if told["ready"] or task_id in self.unknown:
                self._open.discard(task_id)
            self._sent[task_id] = mark
            if known.get(task_id) != mark:
                self._first.append(self._event(told))

    # -- chunks

    def chunks(self) -> Iterator[bytes]:
        """What is sent, for a thread that may wait."""
        try:
            yield self._opening()
            end = time.monotonic() + self._lifetime
            while self._open and (left := end - time.monotonic()) > 0:
                try:
                    records = self._followed.next(min(self._heartbeat, left))
                except TimeoutError:
                    yield _HEARTBEAT
                else:
                    yield self._take(records)
            if not self._open:
                yield self._closing()
        except OperationalError as exc:
            _warn(exc)
        finally:
            self._followed.close()

    async def chunks_later(self) -> AsyncGenerator[bytes, None]:
        """What is sent, for a coroutine."""
        try:
            yield self._opening()
            end = time.monotonic() + self._lifetime
            while self._open and (left := end - time.monotonic()) > 0:
                try:
                    records = await self._followed.next_later(min(self._heartbeat, left))
                except TimeoutError:
                    yield _HEARTBEAT
                else:
                    yield await self._take_later(records)
            if not self._open:
                yield self._closing()
        except OperationalError as exc:
            _warn(exc)
        finally:
            self._followed.close()

    def _opening(self) -> bytes:
        first, self._first = self._first, []
        return b"".join([f"retry: {int(self._retry * 1000)}\n\n".encode(), *first])

    def _take(self, records: Sequence[Any]) -> bytes:
        parts = []
        for record in records:
            told = describe(self._app, record.task_id, record, tracebacks=self._tracebacks)
            if told["ready"]:
                self._open.discard(record.task_id)
            self._sent[record.task_id] = self._followed.marks[record.task_id]
            parts.append(self._event(told))
        return b"".join(parts)

    async def _take_later(self, records: Sequence[Any]) -> bytes:
        if not self._fetches:
            return self._take(records)
        from asyncio import to_thread

        return await to_thread(self._take, records)

    def _closing(self) -> bytes:
        return f"event: {_END}\nid: {self._event_id()}\ndata: {{}}\n\n".encode()

    def _event(self, told: dict[str, Any]) -> bytes:
        return f"id: {self._event_id()}\ndata: {to_json(told)}\n\n".encode()

    def _event_id(self) -> str:
        return ".".join(self._sent.get(task_id, "") for task_id in self._followed.task_ids)


def _warn(exc: OperationalError) -> None:
    """The response has begun: nothing can be said in it."""
    logger.warning("a stream of events has ended early, its client comes back: %s", exc)
