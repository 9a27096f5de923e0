"""The records of many tasks, in the order in which they arrive."""

from __future__ import annotations

import builtins
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from celeriac.exceptions import TimeoutError

if TYPE_CHECKING:
    from celeriac._core import Client, ResultRecord

__all__ = ["TIMED_OUT", "arrivals", "arrivals_later"]

TIMED_OUT = "The operation timed out."
#: The engine learns of a cancelled coroutine only when its wait runs out, so that none lasts longer than this.
_LONGEST_WAIT_SECONDS = 30.0


def arrivals(
    client: Client,
    task_ids: Sequence[str],
    timeout: float | None,
    interval: float,
    on_interval: Callable[[], Any] | None,
) -> Iterator[ResultRecord]:
    """Final records, each once, until all have come.

    Raises:
        TimeoutError: Some did not come in time.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    missing = dict.fromkeys(task_ids)
    while missing:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        turn = left if on_interval is None else (interval if left is None else min(left, interval))
        try:
            records = client.wait(list(missing), turn)
        except builtins.TimeoutError as exc:
            if left is not None and (turn == left or time.monotonic() >= (deadline or 0.0)):
                raise TimeoutError(TIMED_OUT) from exc
            if on_interval is not None:
                on_interval()
            continue
        for record in records:
            missing.pop(record.task_id, None)
            yield record


async def arrivals_later(client: Client, task_ids: Sequence[str], timeout: float | None) -> AsyncIterator[ResultRecord]:
    """The same for coroutines."""
    from celeriac.result import _aio

    deadline = None if timeout is None else time.monotonic() + timeout
    missing = dict.fromkeys(task_ids)
    while missing:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        turn = _LONGEST_WAIT_SECONDS if left is None else min(left, _LONGEST_WAIT_SECONDS)
        try:
            records: list[ResultRecord] = await _aio.call(partial(client.wait_later, list(missing), turn))
        except builtins.TimeoutError as exc:
            if left is not None and left <= turn:
                raise TimeoutError(TIMED_OUT) from exc
            continue
        for record in records:
            missing.pop(record.task_id, None)
            yield record
