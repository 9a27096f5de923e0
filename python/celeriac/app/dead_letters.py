"""`app.dead_letters`: messages that will not be tried again, with the reason.

Example:
    >>> for letter in app.dead_letters.list(reason="failed", task="shop.charge"):
    ...     print(letter.task_id, letter.error)
    >>> app.dead_letters.retry(task="shop.charge")
    3
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any

from celeriac._core import Publication

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["REASONS", "DeadLetter", "DeadLetterStats", "DeadLetters"]

#: Why a message is dead.
REASONS = ("crashed", "disallowed", "failed", "malformed", "rejected", "too-large", "unknown")
#: Letters in one step, so that none of them holds up the store for long.
_STEP = 100
#: More than any store keeps.
_ALL = 1_000_000

#: A moment; or how long ago.
Moment = datetime | timedelta | float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that will not be tried again.

    Attributes:
        id: Its number.
        queue: The queue that it was in.
        reason: One of `REASONS`.
        error: Of a task that has failed, the repr of its exception; otherwise what happened, in words.
        traceback: Where the task raised.
        died_at: When it became a dead letter (UTC).
        crashes: How often its process died.
        headers: The message's headers; None when they cannot be read.
        properties: Its properties.
        body: Its body, exactly.
    """

    id: int
    queue: str
    reason: str
    error: str
    traceback: str | None
    died_at: datetime
    crashes: int
    headers: dict[str, Any] | None = field(repr=False)
    properties: dict[str, Any] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def task(self) -> str | None:
        """The task's name."""
        return self._header("task")

    @property
    def task_id(self) -> str | None:
        """The task's id."""
        return self._header("id")

    @property
    def retries(self) -> int:
        """How often it had been tried again."""
        found = (self.headers or {}).get("retries")
        return found if isinstance(found, int) else 0

    @property
    def attempts(self) -> int:
        """How often it was tried."""
        return self.retries + 1

    @property
    def exception(self) -> str | None:
        """The class of the exception, if a task has failed."""
        name = self.error.partition("(")[0]
        return name if self.reason in ("failed", "rejected") and name.isidentifier() else None

    @property
    def sent_at(self) -> datetime | None:
        """When it was first sent, if whoever sent it has put a timestamp into its properties."""
        seconds = self.properties.get("timestamp")
        return datetime.fromtimestamp(seconds, UTC) if isinstance(seconds, (int, float)) else None

    @property
    def arguments(self) -> tuple[str | None, str | None]:
        """Positional and keyword arguments as texts, as the sender described them."""
        return self._header("argsrepr"), self._header("kwargsrepr")

    def _header(self, name: str) -> str | None:
        found = (self.headers or {}).get(name)
        return found if isinstance(found, str) else None

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it: the body as text, or in base64 where it is none."""
        try:
            body = {"body": self.body.decode()}
        except UnicodeDecodeError:
            body = {"body_base64": base64.b64encode(self.body).decode()}
        return {
            "id": self.id,
            "queue": self.queue,
            "reason": self.reason,
            "error": self.error,
            "exception": self.exception,
            "traceback": self.traceback,
            "task": self.task,
            "task_id": self.task_id,
            "retries": self.retries,
            "crashes": self.crashes,
            "sent_at": None if self.sent_at is None else self.sent_at.isoformat(),
            "died_at": self.died_at.isoformat(),
            "headers": self.headers,
            "properties": self.properties,
            **body,
        }


@dataclass(frozen=True, slots=True)
class DeadLetterStats:
    """How many dead letters there are.

    Attributes:
        count: Of all queues.
        oldest: When the oldest died (UTC); None: there is none.
    """

    count: int
    oldest: datetime | None

    @property
    def oldest_age(self) -> float | None:
        """Seconds since then."""
        return None if self.oldest is None else max(0.0, (datetime.now(UTC) - self.oldest).total_seconds())


#: Inside of `DeadLetters` the name `list` is its method.
Letters = list[DeadLetter]


class DeadLetters:
    """Dead letters of an app's broker.

    Filters are the same everywhere, and mean what fits all of them: `queue`, `reason` (one of `REASONS`), `task` (its
    name), `since` and `until` (a datetime, or how long ago: a timedelta or seconds), and `ids`.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def list(
        self,
        queue: str | None = None,
        reason: str | None = None,
        task: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int = 100,
        *,
        ids: Iterable[int] | None = None,
    ) -> Letters:
        """The oldest of them, at most `limit`.

        Raises:
            ValueError: There is no such reason.
        """
        found = self._app.client.find_dead(_filter(queue, reason, task, since, until, ids), limit)
        return [_letter(one) for one in found]

    def count(self, **filters: Any) -> int:
        """How many fit the filters; all of them without any."""
        return len(self.list(**filters, limit=_ALL)) if filters else self.stats().count

    def get(self, id: int) -> DeadLetter:
        """One of them.

        Raises:
            KeyError: There is none of that number (any more).
        """
        found = self.list(ids=[id], limit=1)
        if not found:
            raise KeyError(f"there is no dead letter {id}")
        return found[0]

    def stats(self) -> DeadLetterStats:
        """How many there are, and how old the oldest is."""
        count, oldest = self._app.client.dead_stats()
        return DeadLetterStats(count, None if oldest is None else _moment(oldest))

    def retry(self, ids: int | Iterable[int] | None = None, to_queue: str | None = None, **filters: Any) -> int:
        """Sends messages again, exactly as they were but for their count of retries, which begins anew.

        A letter goes and its message comes in one step, so that a crash loses nothing and doubles nothing; on RabbitMQ
        the message is sent first, and a crash in between leaves the letter as well. Retried twice at the same time, a
        message is sent once. What cannot be sent again (its headers cannot be read) stays.

        Args:
            ids: Which; all that fit the filters unless given.
            to_queue: Another queue than that they were in.
            **filters: As for `list`.

        Returns:
            How many were sent.
        """
        return self._resolve(ids, filters, lambda letter: _again(letter, to_queue))

    def drop(self, ids: int | Iterable[int] | None = None, **filters: Any) -> int:
        """Removes letters for good; gives how many. Without ids and filters: all of them."""
        return self._resolve(ids, filters, lambda letter: None)

    def export(self, file: IO[str], **filters: Any) -> int:
        """Writes letters as JSON, one in a line, with the exact message; gives how many. They stay."""
        count = 0
        for letter in self.list(**{"limit": _ALL, **filters}):
            file.write(json.dumps(letter.as_dict(), default=str) + "\n")
            count += 1
        return count

    async def alist(self, **filters: Any) -> Letters:
        """`list` for coroutines."""
        return await asyncio.to_thread(lambda: self.list(**filters))

    async def acount(self, **filters: Any) -> int:
        """`count` for coroutines."""
        return await asyncio.to_thread(lambda: self.count(**filters))

    async def aget(self, id: int) -> DeadLetter:
        """`get` for coroutines."""
        return await asyncio.to_thread(self.get, id)

    async def astats(self) -> DeadLetterStats:
        """`stats` for coroutines."""
        return await asyncio.to_thread(self.stats)

    async def aretry(self, ids: int | Iterable[int] | None = None, to_queue: str | None = None, **filters: Any) -> int:
        """`retry` for coroutines."""
        return await asyncio.to_thread(lambda: self.retry(ids, to_queue, **filters))

    async def adrop(self, ids: int | Iterable[int] | None = None, **filters: Any) -> int:
        """`drop` for coroutines."""
        return await asyncio.to_thread(lambda: self.drop(ids, **filters))

    def _resolve(self, ids: int | Iterable[int] | None, filters: dict[str, Any], make: Any) -> int:
        wanted = [ids] if isinstance(ids, int) else ids
        letters = self.list(**{"limit": _ALL, **filters}, ids=wanted)
        done = 0
        for some in _steps(letters):
            resolutions = [(letter.id, made) for letter in some if (made := make(letter)) is not _STAYS]
            done += len(self._app.client.resolve_dead(resolutions)) if resolutions else 0
        return done


#: A letter that cannot be sent again.
_STAYS: Any = object()


def _again(letter: DeadLetter, queue: str | None) -> Any:
    if letter.headers is None:
        return _STAYS
    headers = dict(letter.headers)
    if "retries" in headers:
        headers["retries"] = 0
    # An ETA of its last try has passed, and is nothing to wait for.
    return Publication(headers, letter.properties, letter.body, routing_key=queue or letter.queue)


def _steps(letters: list[DeadLetter]) -> Iterator[list[DeadLetter]]:
    for start in range(0, len(letters), _STEP):
        yield letters[start : start + _STEP]


def _filter(
    queue: str | None,
    reason: str | None,
    task: str | None,
    since: Moment | None,
    until: Moment | None,
    ids: Iterable[int] | None,
) -> dict[str, Any]:
    if reason is not None and reason not in REASONS:
        raise ValueError(f"no message is dead for the reason {reason!r}: there are {', '.join(REASONS)}")
    found = {
        "ids": None if ids is None else list(ids),
        "queue": queue,
        "reason": reason,
        "task": task,
        "since_ms": _milliseconds(since),
        "until_ms": _milliseconds(until),
    }
    return {name: value for name, value in found.items() if value is not None}


def _milliseconds(moment: Moment | None) -> int | None:
    if moment is None:
        return None
    if isinstance(moment, (int, float)):
        moment = timedelta(seconds=moment)
    if isinstance(moment, timedelta):
        moment = datetime.now(UTC) - moment
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _letter(found: dict[str, Any]) -> DeadLetter:
    return DeadLetter(
        id=found["id"],
        queue=found["queue"],
        reason=found["reason"],
        error=found["detail"],
        traceback=found["traceback"] or None,
        died_at=_moment(found["died_ms"]),
        crashes=found["crashes"],
        headers=found["headers"],
        properties=found["properties"],
        body=found["body"],
    )
