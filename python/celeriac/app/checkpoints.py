"""Checkpoints: what a long task has come to, kept beside the results, so that another run of it goes on from there.

A checkpoint is written by the child that runs the task, under the task's id, and read by the next run of the same id: after
a retry, after its process or its worker was killed, after a deploy. A kill loses what was not written yet, at most
`INTERVAL` seconds of it; `flush` loses nothing. It is removed when the task has ended: after its outcome was handed to the
supervisor, so that a worker that dies before leaves either, and the task begins anew or goes on. What nobody removes (a task
that was given up because its process died) expires.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from celeriac.app.kept import kept_values, seconds
from celeriac.exceptions import ImproperlyConfigured
from celeriac.serialization import json

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.context import Context

__all__ = ["INTERVAL", "MAX_BYTES", "Checkpoints", "of_request"]

logger = logging.getLogger("celery.app.trace")

#: Seconds between two that are written, unless they are flushed.
INTERVAL = 0.5
#: A checkpoint is a note of where a task is, not its data.
MAX_BYTES = 1024 * 1024
#: Outcomes after which another run may go on: `celeriac.worker.trace` has the words.
_GOES_ON = frozenset({"retry", "requeued", "rejected", "dead_lettered"})
_NOTHING: Any = object()


class Checkpoints:
    """Those of one request. Made when the task first asks for it; used by the task and then by its child."""

    def __init__(self, app: Celery, request: Context) -> None:
        if request.called_directly or request.id is None:
            # A plain call: nobody can go on from it.
            self._values = None
        else:
            self._values = None if request.is_eager else kept_values(app, "checkpoints")
        self._key = f"checkpoint:{request.id}"
        self._ttl = seconds(app.conf.checkpoint_expires)
        self._lock = threading.Lock()
        # Guarded by the lock: the state as it is, or as it was found.
        self._state: Any = _NOTHING
        # What is not written yet; and when something was.
        self._waits: bytes | None = None
        self._written: float | None = None

    def save(self, state: Any, *, flush: bool) -> None:
        """Keeps a state, at once or soon.

        Raises:
            EncodeError: It cannot be written as JSON.
            ValueError: It is too large.
        """
        data = json.dumps(state)
        if len(data) > MAX_BYTES:
            raise ValueError(
                f"a checkpoint of {len(data)} bytes is over the limit of {MAX_BYTES}: keep the data elsewhere, and say here "
                "where it is"
            )
        with self._lock:
            self._state = state
            self._waits = data
            now = monotonic()
            if flush or self._written is None or now - self._written >= INTERVAL:
                self._write(now)

    def last(self, default: Any) -> Any:
        """The state that was kept last, by this run or one before."""
        with self._lock:
            if self._state is _NOTHING and self._values is not None:
                found = self._values.get(self._key)
                if found is None:
                    return default
                self._state = json.loads(found)
            return default if self._state is _NOTHING else self._state

    def ends(self, kind: str) -> None:
        """The task ends so; its outcome is told of next."""
        with self._lock:
            if kind in _GOES_ON and self._waits is not None:
                self._try("kept", lambda: self._write(monotonic()))

    def ended(self, kind: str) -> None:
        """Its outcome was told of."""
        with self._lock:
            values = self._values
            if kind not in _GOES_ON and values is not None and self._state is not _NOTHING:
                self._try("removed", lambda: values.delete(self._key))

    def _write(self, now: float) -> None:
        if self._waits is not None and self._values is not None:
            self._values.put(self._key, self._waits, self._ttl)
        self._waits, self._written = None, now

    def _try(self, what: str, step: Any) -> None:
        """The task has ended: what happens to its checkpoint does not change how."""
        try:
            step()
        except Exception as exc:
            logger.warning("the checkpoint %s cannot be %s: %r", self._key, what, exc)


def of_request(app: Celery, request: Context) -> Checkpoints:
    """Those of a request.

    Raises:
        ImproperlyConfigured: There is no result backend that could keep them.
    """
    found = request._checkpoints
    if found is None:
        if not (request.called_directly or request.is_eager or app.results_enabled):
            raise ImproperlyConfigured("checkpoints are kept in the result backend: set result_backend")
        found = request._checkpoints = Checkpoints(app, request)
    return found
