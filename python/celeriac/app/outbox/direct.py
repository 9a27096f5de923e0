"""Right after a commit, a thread of the same process sends what is in the outbox: nobody has to wait for a relay."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.app.outbox.relay import Relay, is_in_memory
from celeriac.exceptions import OperationalError

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["after_commit"]

logger = logging.getLogger("celery.app.outbox")

#: Seconds that a process waits at its end for what was committed just before.
FAREWELL_SECONDS = 5.0

# The threads of this process, by app and engine, and their lock: made anew after a fork.
_lock = threading.Lock()
_senders: dict[tuple[int, int], _Sender] = {}


def after_commit(app: Celery, engine: Any) -> None:
    """Something was committed; returns at once, but for a database that lives in this connection."""
    if is_in_memory(engine):
        _drain(Relay(app, engine))
        return
    # The client first: what it does at the end of the process comes after what we do.
    app.client  # noqa: B018 -- made by this
    key = id(app), id(engine)
    with _lock:
        sender = _senders.get(key)
        if sender is None:
            if not _senders:
                atexit.register(_farewell, os.getpid())
                # Children of a worker leave without that.
                signals.worker_process_shutdown.connect(_farewell_of_child, weak=False)
            sender = _senders[key] = _Sender(app, engine)
    sender.wake()


class _Sender:
    """Sends when it is woken. What fails is left to the next commit, or to a relay."""

    def __init__(self, app: Celery, engine: Any) -> None:
        self._relay = Relay(app, engine)
        # Wakes are counted up by those who commit and compared by the thread, under the condition's lock.
        self._changed = threading.Condition()
        self._wanted = self._done = 0
        threading.Thread(target=self._run, name="celeriac-outbox", daemon=True).start()

    def wake(self) -> None:
        with self._changed:
            self._wanted += 1
            self._changed.notify_all()

    def wait(self, deadline: float) -> None:
        """Until all that was wanted is done, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._done >= self._wanted, max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._done < self._wanted)
                goal = self._wanted
            _drain(self._relay)
            with self._changed:
                self._done = goal
                self._changed.notify_all()


def _drain(relay: Relay) -> None:
    try:
        relay.drain()
    except OperationalError as exc:
        logger.warning("What was committed waits in the outbox for a relay: %s", exc)
    except Exception as exc:
        logger.error("The outbox cannot be sent from this process: %r", exc, exc_info=exc)


def _farewell(pid: int) -> None:
    if pid != os.getpid():
        return
    deadline = time.monotonic() + FAREWELL_SECONDS
    for sender in list(_senders.values()):
        sender.wait(deadline)


def _farewell_of_child(**_: Any) -> None:
    _farewell(os.getpid())


def _forget() -> None:
    global _lock
    _lock = threading.Lock()
    _senders.clear()


os.register_at_fork(after_in_child=_forget)
