"""Tasks that get many calls at once: classes like `celery_batches.Batches`, which bring a `Strategy` of their own.

Celery's worker lets such a class gather messages in its main process. Here calls are gathered in the child that has them,
each in a slot, until there are `flush_every` of them (or no slot is left), or the first has waited `flush_interval`
seconds. The slot of the call that completes a batch runs it, by the class's own `flush`; the others wait.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Callable

    from celeriac.app.base import Celery
    from celeriac.app.context import Context
    from celeriac.app.task import Task
    from celeriac.worker.trace import Tracer

__all__ = ["BatchTracer", "gathers", "warn_of_batches"]

logger = logging.getLogger("celery.worker.strategy")

#: How many requests this process can hold at once. Written when a child starts, before its first request.
slots = 1

_lock = threading.Lock()
# What has been gathered, by task name; all slots of a process add to it. Guarded by the lock.
_gathered: dict[str, list[_Call]] = {}


def gathers(task: Task[..., Any]) -> bool:
    """Whether a task gets many calls at once.

    Raises:
        ImproperlyConfigured: It brings a strategy of its own that is none of batches: only Celery's worker can use that.
    """
    if not callable(getattr(task, "Strategy", None)):
        return False
    if all(hasattr(task, name) for name in ("flush", "flush_every", "flush_interval")):
        return True
    raise ImproperlyConfigured(
        f"task {task.name} brings a Strategy of its own, which only Celery's worker can use; celeriac knows those with "
        "flush, flush_every and flush_interval, as celery_batches.Batches has"
    )


def warn_of_batches(app: Celery, concurrency: int, *, one_process: bool) -> None:
    """Says at the start of a worker which batches will be smaller than they are wanted.

    Args:
        app: Whose tasks they are.
        concurrency: Slots of the worker.
        one_process: Whether they are in one process.

    Raises:
        ImproperlyConfigured: A task brings a strategy that cannot be used.
    """
    room = concurrency if one_process else 1
    for task in app.tasks.values():
        if gathers(task) and room < task.flush_every:  # type: ignore[attr-defined]
            logger.warning(
                "Task %s gathers up to %s calls, and %s: its batches will have no more than that. Run it in a worker of "
                "its own queue with -P threads -c N, N at least flush_every",
                task.name,
                task.flush_every,  # type: ignore[attr-defined]
                f"this worker has {room} slots" if one_process else "a process of this pool holds one",
            )


class _Call:
    """A request that waits for its batch; what `flush` takes it for is Celery's request of a worker."""

    def __init__(self, task: Task[..., Any], request: Context) -> None:
        self.task = task
        self.id, self.name = request.id, request.task
        self.args, self.kwargs = request.args, request.kwargs
        self._payload: tuple[Any, Any, dict[str, Any]] = (request.args, request.kwargs, {})
        self.delivery_info = request.delivery_info or {}
        self.hostname = request.hostname
        self.ignore_result = bool(request.ignore_result)
        self.reply_to, self.correlation_id = request.reply_to, request.correlation_id
        self.request_dict = {name: value for name, value in vars(request).items() if name[:1] != "_"}
        self.eta = None
        #: Set when its batch has been run, by the slot that has run it.
        self.done = threading.Event()

    def acknowledge(self) -> None:
        """The worker does that, when the request is answered."""

    def reject(self, requeue: bool = False) -> None:
        """Likewise."""


class _Here:
    """Stands for Celery's pool: what it is given runs here and now."""

    def apply_async(
        self,
        target: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        accept_callback: Callable[[int, float], Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        """Runs it."""
        if accept_callback is not None:
            accept_callback(os.getpid(), time.monotonic())
        value = target(*args, **(kwargs or {}))
        if callback is not None:
            callback(value)


class BatchTracer:
    """Gathers the requests of one task, and runs them together."""

    is_async = False

    def __init__(self, tracer: Tracer, task: Any) -> None:
        self._task = task
        self._respond = tracer.channel.respond
        self._limit = tracer.limit
        self._most = max(1, min(int(task.flush_every), slots))
        task._pool = _Here()

    def run(self, tag: int, request: Context) -> None:
        """Waits until the request's batch has been run, by this slot or another; then answers."""
        call = _Call(self._task, request)
        batch, leads = self._gather(call)
        if not batch and leads:
            # The first one sees to it that the batch does not wait for ever.
            call.done.wait(self._task.flush_interval)
            with _lock:
                waiting = _gathered.get(self._task.name, [])
                batch = waiting[:] if call in waiting else []
                if batch:
                    waiting.clear()
        if batch:
            self._flush(tag, batch)
        else:
            call.done.wait()
        # Nobody is told how it ended: results are the task's own business.
        self._respond(tag, "ignored", (), (), states.IGNORED, None)

    def _gather(self, call: _Call) -> tuple[list[_Call], bool]:
        """Adds a call; gives the batch if it is complete, and whether the call is the first of its batch."""
        with _lock:
            waiting = _gathered.setdefault(self._task.name, [])
            waiting.append(call)
            if len(waiting) < self._most:
                return [], len(waiting) == 1
            batch = waiting[:]
            waiting.clear()
            return batch, False

    def _flush(self, tag: int, batch: list[_Call]) -> None:
        self._limit.running = tag
        try:
            self._task.flush(batch)
        except Exception:
            logger.error("A batch of %s calls of task %s failed", len(batch), self._task.name, exc_info=True)
        finally:
            self._limit.running = None
            for call in batch:
                call.done.set()
