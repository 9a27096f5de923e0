"""What a running task tells of its progress: at most some times a second, and the last of it always."""

from __future__ import annotations

import heapq
import logging
import os
import threading
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celeriac.app.context import Context
    from celeriac.app.task import Task

__all__ = ["PROGRESS", "Meter", "meter_of"]

#: The state of a task that has told of its progress.
PROGRESS = "PROGRESS"

logger = logging.getLogger(__name__)


class Meter:
    """Of one request.

    1. The first call is sent at once, and so is each that comes when the interval is over.
    2. Others are kept, the newest only; `_Flusher` sends it when the interval is over, if no call did before.
       (Not where the child itself writes results: see `meter_of`.)
    3. What is kept when the task ends is dropped: the final state overwrites it.
    """

    __slots__ = ("_closed", "_delays", "_interval", "_lock", "_request", "_task", "due", "kept", "scheduled")

    def __init__(self, task: Task[..., Any], request: Context, rate: float, *, delays: bool) -> None:
        self._task = task
        self._request = request
        self._interval = 1 / rate if rate > 0 else 0.0
        self._delays = delays
        # Guards sending: an update must not come after the outcome. Taken by the task's thread and by the flusher.
        self._lock = threading.Lock()
        self._closed = False
        #: When the next may be sent. Written under the lock; a stale value costs one more or one less.
        self.due = 0.0
        #: What was told last and not sent. Written by the task, taken by whoever sends.
        self.kept: tuple[Any, Any, Any, dict[str, Any]] | None = None
        #: Whether the flusher knows of it. Set by the task, cleared by the flusher before it looks at `kept`.
        self.scheduled = False

    def tell(self, told: tuple[Any, Any, Any, dict[str, Any]]) -> None:
        """Sends it, or keeps it for later."""
        self.kept = told
        if monotonic() >= self.due:
            self.flush()
        elif not self.scheduled and self._delays:
            self.scheduled = True
            _flusher.add(self)

    def flush(self) -> None:
        """Sends what is kept.

        Raises:
            EncodeError: The result serializer refuses it.
        """
        with self._lock:
            told, self.kept = self.kept, None
            if told is None or self._closed:
                return
            self.due = monotonic() + self._interval
            done, total, message, more = told
            meta = {"done": done, "total": total, "message": message, **more}
            self._task._store_state(self._request, PROGRESS, meta)

    def close(self) -> None:
        """The task has ended: nothing is sent after this."""
        with self._lock:
            self._closed = True
            self.kept = None


class _Flusher:
    """One thread for all meters of a process, started by the first that needs it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # What waits, by time: no more than requests run here. Under the condition's lock.
        self._waiting: list[tuple[float, int, Meter]] = []
        self._numbers = count()
        self._thread: threading.Thread | None = None

    def add(self, meter: Meter) -> None:
        """Has it flushed when it is due."""
        with self._changed:
            heapq.heappush(self._waiting, (meter.due, next(self._numbers), meter))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="celeriac-progress", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            meter = self._next()
            if monotonic() < meter.due:
                # The task has sent one itself meanwhile.
                self.add(meter)
                continue
            meter.scheduled = False
            try:
                meter.flush()
            except Exception:
                logger.warning("the progress of a task cannot be stored", exc_info=True)

    def _next(self) -> Meter:
        with self._changed:
            while True:
                left = self._waiting[0][0] - monotonic() if self._waiting else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(left)


_flusher = _Flusher()


def _renew() -> None:
    """In a forked child the thread is not there, and the lock may have been held."""
    global _flusher
    _flusher = _Flusher()


os.register_at_fork(after_in_child=_renew)


def meter_of(task: Task[..., Any], request: Context) -> Meter | None:
    """Makes the meter of a request; None when nobody could read what it tells."""
    app = task.app
    if request.id is None or not app.results_enabled:
        return None
    if request.is_eager and not task.store_eager_result:
        return None
    ignores = request.ignore_result
    if task.ignore_result if ignores is None else ignores:
        return None
    # Elsewhere nothing orders a late update and the final state.
    delays = app._child_update is not None and request._tag is not None and not app.has_own_backend
    meter = request._meter = Meter(task, request, float(app.conf.task_progress_rate), delays=delays)
    return meter
