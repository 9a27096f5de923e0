"""Batch tasks: `@app.task(batch=Batch(...))` gets many calls at once, and each of them keeps a life of its own.

The worker gathers calls and gives them to one child; what it calls there, and how each call ends, is in
`celeriac.worker.gathered`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celeriac.app.arguments import header_of
from celeriac.app.autoretry import retry_options
from celeriac.app.context import Context
from celeriac.exceptions import Ignore, ImproperlyConfigured, Reject, Retry

if TYPE_CHECKING:
    from datetime import datetime

    from celeriac.app.task import Task

__all__ = ["Batch", "BatchRequest", "check", "retries", "run_alone", "values_of"]

#: Requests in one batch at the most: a batch is held in memory as a whole.
LARGEST = 10_000
#: Seconds.
LONGEST = 24 * 3600.0

#: What ends a request: it, how (`ack`, `fail`, `retry` or `dead_letter`), and with what.
Settle = Callable[["BatchRequest", str, Any], None]


@dataclass(frozen=True, slots=True)
class Batch:
    """How a task wants its calls: several at once, as a list.

    Example:
        >>> @app.task(batch=Batch(max_size=100, max_wait=2.0))
        ... def insert(requests):
        ...     table.insert([request.args for request in requests])

    Args:
        max_size: Calls in one batch at the most.
        max_wait: Seconds that the first call of a batch waits for others at the most.

    Raises:
        ImproperlyConfigured: One of them makes no sense.
    """

    max_size: int = 100
    max_wait: float = 1.0

    def __post_init__(self) -> None:
        size, wait = self.max_size, self.max_wait
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST:
            raise ImproperlyConfigured(f"max_size of a batch is a whole number from 1 to {LARGEST}, not {size!r}")
        if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not 0 <= wait <= LONGEST:
            raise ImproperlyConfigured(f"max_wait of a batch is 0 to {LONGEST:.0f} seconds, not {wait!r}")


class BatchRequest:
    """One call of a batch.

    A call that is not mentioned succeeds when the function returns, and is tried again when it raises. Each of the
    methods below ends the call at once: its result is stored and its message acknowledged while the function goes on.
    """

    __slots__ = ("_lock", "_settle", "_settled", "request")

    def __init__(self, request: Context, settle: Settle) -> None:
        #: All that is known of the call, as `self.request` is for other tasks.
        self.request = request
        self._settle = settle
        # Written once, under the lock: functions may use threads of their own.
        self._settled = False
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        """The call's id."""
        return self.request.id or ""

    @property
    def args(self) -> Any:
        """Its positional arguments."""
        return self.request.args

    @property
    def kwargs(self) -> Any:
        """Its keyword arguments."""
        return self.request.kwargs

    @property
    def headers(self) -> dict[str, Any]:
        """Its custom headers."""
        return self.request.headers

    @property
    def retries(self) -> int:
        """Tries that there have been before."""
        return self.request.retries

    @property
    def settled(self) -> bool:
        """Whether it has ended."""
        return self._settled

    def ack(self, result: Any = None) -> None:
        """It has succeeded.

        Args:
            result: What `get()` gives.

        Raises:
            RuntimeError: It has ended already.
        """
        self._end("ack", result)

    def fail(self, exc: BaseException) -> None:
        """It has failed.

        Args:
            exc: What `get()` raises.

        Raises:
            RuntimeError: It has ended already.
            TypeError: That is no exception.
        """
        if not isinstance(exc, BaseException):
            raise TypeError(f"a request fails with an exception, not with {exc!r}")
        self._end("fail", exc)

    def retry(
        self,
        countdown: float | None = None,
        exc: BaseException | None = None,
        eta: datetime | None = None,
        max_retries: int | None = None,
    ) -> None:
        """It is tried again, later and perhaps in another batch; it fails if that has been done too often.

        Args:
            countdown: In how many seconds; the task's `default_retry_delay` unless given.
            exc: Why; what it fails with in the end.
            eta: When.
            max_retries: Instead of the task's own limit.

        Raises:
            RuntimeError: It has ended already.
        """
        self._end("retry", {"countdown": countdown, "exc": exc, "eta": eta, "max_retries": max_retries})

    def dead_letter(self, reason: str = "") -> None:
        """It fails, and its message is kept as a dead letter, however the task acknowledges.

        Args:
            reason: Kept with it.

        Raises:
            RuntimeError: It has ended already.
        """
        self._end("dead_letter", str(reason))

    def _end(self, how: str, value: Any) -> None:
        with self._lock:
            if self._settled:
                raise RuntimeError(f"request {self.id} of task {self.request.task} has ended already")
            self._settled = True
        self._settle(self, how, value)

    def __repr__(self) -> str:
        return f"<BatchRequest {self.id} args={self.args!r} kwargs={self.kwargs!r}>"


def check(name: str, fun: Any, batch: Any, *, bound: bool = False) -> None:
    """Looks at a batch task when it is declared.

    Raises:
        ImproperlyConfigured: It is not what a batch task has to be.
    """
    if not isinstance(batch, Batch):
        raise ImproperlyConfigured(f"batch of task {name} is {batch!r}: use celeriac.Batch(max_size=..., max_wait=...)")
    header = header_of(fun, bound=bound)
    if header is None:
        return
    try:
        header([])
    except TypeError:
        raise ImproperlyConfigured(
            f"task {name} is a batch task: its function takes one argument, the list of requests"
            + (", after the task itself" if bound else "")
        ) from None


def values_of(task: Task[..., Any], requests: Sequence[BatchRequest], value: Any) -> list[Any]:
    """The result of each request, as what the function returned says.

    A list or tuple has one for each, in their order; a mapping has them by id. Anything else is nobody's result.

    Raises:
        ValueError: A list of another length.
    """
    if isinstance(value, (list, tuple)):
        if len(value) != len(requests):
            raise ValueError(
                f"batch task {task.name} returned {len(value)} results for {len(requests)} requests: return one for "
                "each, a mapping by id, or None"
            )
        return list(value)
    if isinstance(value, Mapping):
        return [value.get(request.id) for request in requests]
    return [None] * len(requests)


def retries(task: Task[..., Any], exc: BaseException, request: Context) -> dict[str, Any] | None:
    """Options of the retry of a request whose function has raised this; None: it fails.

    Unless `autoretry_for` names what is tried again, everything is but `throws` and `dont_autoretry_for`.
    """
    if isinstance(exc, Retry):
        return {**retry_options(task, request.retries), "exc": exc.exc or exc}
    if isinstance(exc, (Ignore, Reject, *task.throws, *task.dont_autoretry_for)):
        return None
    wanted = tuple(task.autoretry_for or ())
    if wanted and not isinstance(exc, wanted):
        return None
    return {**retry_options(task, request.retries), "exc": exc}


def run_alone(task: Task[..., Any], request: Context, call: Callable[[list[BatchRequest]], Any]) -> Any:
    """Runs a batch of one where there is no worker (`apply`, `task_always_eager`).

    Returns:
        Its result.

    Raises:
        Exception: As the task would have it that has one call.
    """
    ends: list[tuple[str, Any]] = []
    alone = BatchRequest(request, lambda _, how, value: ends.append((how, value)))
    try:
        value = values_of(task, [alone], call([alone]))[0]
    except Exception as exc:
        options = None if ends else retries(task, exc, request)
        if options is not None:
            raise task.retry(**options) from exc
        if not ends:
            raise
        value = None
    how, value = ends[0] if ends else ("ack", value)
    if how == "ack" and not isinstance(value, BaseException):
        return value
    if how == "retry":
        raise task.retry(**value)
    if how == "dead_letter":
        raise Reject(value, requeue=False)
    raise value
