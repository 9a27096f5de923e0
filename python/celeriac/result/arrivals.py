"""Waiting for many tasks at once: the engine follows all of their ids, and tells of each as it ends."""

from __future__ import annotations

import builtins
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.exceptions import TimeoutError
from celeriac.result.base import ancestors, client_of, leaves, raise_if_failed

if TYPE_CHECKING:
    from celeriac._core import Arrivals, Client, ResultRecord
    from celeriac.app.base import Celery

__all__ = ["TIMED_OUT", "each_as_it_ends", "each_as_it_ends_later"]

TIMED_OUT = "The operation timed out."


class _Awaited:
    """Results of tasks that are waited for, and those before them, whose failure means that these never end."""

    def __init__(self, wanted: Iterable[Any], follows: Any) -> None:
        self.known: list[Any] = []
        self.left = 0
        self.wanted: dict[str, list[Any]] = {}
        self.before: dict[str, Any] = {}
        for leaf in wanted:
            if leaf._cache is None and not leaf.ignored:
                self.wanted.setdefault(leaf.id, []).append(leaf)
                self.left += 1
            else:
                self.known.append(leaf)
        if follows is not None and self.left:
            for leaf in leaves(ancestors(follows)):
                if leaf._cache is None:
                    self.before[leaf.id] = leaf
                else:
                    raise_if_failed(leaf._cache)

    def arrivals(self, client: Client) -> Arrivals:
        """Follows them: of those before them only failures matter."""
        if not self.before:
            return client.arrivals(list(self.wanted))
        return client.arrivals(list(self.wanted), list(self.before))

    def take(self, record: ResultRecord) -> list[Any]:
        """The results that this is the record of.

        Raises:
            BaseException: What one before them raised.
        """
        ended = self.wanted.pop(record.task_id, [])
        for leaf in ended:
            leaf._keep(record)
        self.left -= len(ended)
        before = self.before.pop(record.task_id, None)
        if before is not None and record.state in states.PROPAGATE_STATES:
            raise_if_failed(before._keep(record))
        return ended


class _Deadline:
    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Seconds; None is for ever."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


def each_as_it_ends(
    app: Celery,
    wanted: Iterable[Any],
    follows: Any = None,
    timeout: float | None = None,
    interval: float = 0.5,
    on_interval: Callable[[], Any] | None = None,
) -> Iterator[Any]:
    """Gives each of these results when its document has come: first those at hand, then in the order of arrival.

    Args:
        app: Whose backend they are read from.
        wanted: Results of tasks.
        follows: Whose parents' failure ends the wait; None: nobody's.
        timeout: Seconds; None waits for ever, 0 takes what is there.
        interval: How often `on_interval` is called.
        on_interval: Called now and then while waiting.

    Raises:
        TimeoutError: Some did not end in time.
    """
    awaited = _Awaited(wanted, follows)
    yield from awaited.known
    if not awaited.left:
        return
    deadline = _Deadline(timeout)
    source = _source(client_of(app), awaited, timeout)
    while awaited.left:
        left = deadline.left()
        turn = left if on_interval is None else (interval if left is None else min(left, interval))
        try:
            records = source(turn)
        except builtins.TimeoutError as exc:
            if on_interval is None or deadline.left() == 0:
                raise TimeoutError(TIMED_OUT) from exc
            on_interval()
            continue
        for record in records:
            yield from awaited.take(record)


async def each_as_it_ends_later(
    app: Celery, wanted: Iterable[Any], follows: Any = None, timeout: float | None = None
) -> AsyncIterator[Any]:
    """The same for coroutines."""
    from celeriac.result import _aio

    awaited = _Awaited(wanted, follows)
    for leaf in awaited.known:
        yield leaf
    if not awaited.left:
        return
    deadline = _Deadline(timeout)
    arrivals = awaited.arrivals(client_of(app))
    while awaited.left:
        try:
            records: list[ResultRecord] = await _aio.call(partial(arrivals.next_later, deadline.left()))
        except builtins.TimeoutError as exc:
            raise TimeoutError(TIMED_OUT) from exc
        for record in records:
            for leaf in awaited.take(record):
                yield leaf


def _source(client: Client, awaited: _Awaited, timeout: float | None) -> Callable[[float | None], list[ResultRecord]]:
    if timeout is None or timeout > 0:
        return awaited.arrivals(client).next
    read = client.read([*awaited.before, *awaited.wanted])
    stored = [record for record in read if record is not None and record.state in states.READY_STATES]

    def once(_: float | None) -> list[ResultRecord]:
        if not stored:
            raise builtins.TimeoutError
        records = stored.copy()
        stored.clear()
        return records

    return once
