"""The states of tasks as they come: what `stream`, `result --follow` and server-sent events are made of."""

from __future__ import annotations

import builtins
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac import states
from celeriac.exceptions import TimeoutError
from celeriac.result._gevent import call, is_patched
from celeriac.result.arrivals import TIMED_OUT
from celeriac.result.base import client_of
from celeriac.result.record import read_record

if TYPE_CHECKING:
    from celeriac._core import Changes, ResultRecord
    from celeriac.app.base import Celery
    from celeriac.result.record import StoredMeta

    Record = ResultRecord | StoredMeta

__all__ = ["Followed", "TaskState", "states_of", "states_of_later"]

#: Tells one record of a task from another, and fits 8 characters: see `Last-Event-ID` of server-sent events.
_MARK_BYTES = 6


class TaskState(NamedTuple):
    """A state of a task as `AsyncResult.stream` gives it."""

    #: PENDING, STARTED, PROGRESS, RETRY, SUCCESS, FAILURE, REVOKED, or one of the task's own.
    state: str
    #: What it returned or raised, or the meta of the state.
    info: Any
    #: Whether it is the last one.
    ready: bool


class Followed:
    """Some tasks whose records are followed: those that are stored now, then each that is new.

    All that are followed in a process share one subscription of the result backend. Whoever takes them slowly misses
    states in between, and never the last.

    Args:
        app: Whose result backend.
        task_ids: Which; one that is there twice counts once.

    Raises:
        NotImplementedError: Results are off.
    """

    def __init__(self, app: Celery, task_ids: Iterable[str]) -> None:
        self.task_ids = list(dict.fromkeys(task_ids))
        self._client = client_of(app)
        #: Of the record of each that was given last.
        self.marks: dict[str, str] = {}
        self._changes: Changes | None = None

    def begin(self) -> list[Record | None]:
        """What is stored now, in the order of the ids; None: nothing."""
        return self._begun(self._client.read(self.task_ids))

    async def begin_later(self) -> list[Record | None]:
        """The same for a coroutine."""
        from celeriac.result import _aio

        return self._begun(await _aio.call(partial(self._client.read_later, self.task_ids)))

    def _begun(self, records: Sequence[Record | None]) -> list[Record | None]:
        self.marks = {task_id: mark(record) for task_id, record in zip(self.task_ids, records, strict=True)}
        return list(records)

    def next(self, timeout: float | None = None) -> list[Record]:
        """Records that differ from the last that was given of their task.

        Raises:
            TimeoutError: The built-in one: none within so many seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            changes = self._watched()
            records = call(partial(changes.next_later, left)) if is_patched() else changes.next(left)
            if found := self._new(records):
                return found

    async def next_later(self, timeout: float | None = None) -> list[Record]:
        """The same for a coroutine."""
        from celeriac.result import _aio

        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if found := self._new(await _aio.call(partial(self._watched().next_later, left))):
                return found

    def close(self) -> None:
        """Follows them no more: now, and not when this is collected."""
        self._changes = None

    def _watched(self) -> Changes:
        # Begins with what is stored, so nothing between `begin` and this is missed.
        if self._changes is None:
            self._changes = self._client.changes(self.task_ids)
        return self._changes

    def _new(self, records: Sequence[Record]) -> list[Record]:
        new = []
        for record in records:
            found = mark(record)
            if self.marks.get(record.task_id) != found:
                self.marks[record.task_id] = found
                new.append(record)
        return new


def mark(record: Record | None) -> str:
    """Tells this record of a task from its others; empty: nothing is stored."""
    if record is None:
        return ""
    digest = blake2b(record.record, digest_size=_MARK_BYTES, salt=record.state.encode()[:16]).digest()
    return urlsafe_b64encode(digest).decode()


def states_of(app: Celery, task_id: str, timeout: float | None) -> Iterator[TaskState]:
    """The states of a task from now to its end.

    Raises:
        TimeoutError: It did not end in time.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    followed = Followed(app, [task_id])
    records: Sequence[Record | None] = followed.begin()
    while True:
        for record in records:
            now = _state(app, record)
            yield now
            if now.ready:
                return
        try:
            records = followed.next(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except builtins.TimeoutError as exc:
            raise TimeoutError(TIMED_OUT) from exc


async def states_of_later(app: Celery, task_id: str, timeout: float | None) -> AsyncIterator[TaskState]:
    """The same for coroutines."""
    deadline = None if timeout is None else time.monotonic() + timeout
    followed = Followed(app, [task_id])
    records: Sequence[Record | None] = await followed.begin_later()
    while True:
        for record in records:
            now = _state(app, record)
            yield now
            if now.ready:
                return
        try:
            records = await followed.next_later(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except builtins.TimeoutError as exc:
            raise TimeoutError(TIMED_OUT) from exc


def _state(app: Celery, record: Record | None) -> TaskState:
    document = read_record(app, record)
    state = str(document["status"])
    return TaskState(state, document["result"], state in states.READY_STATES)
