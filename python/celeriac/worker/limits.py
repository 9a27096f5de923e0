"""The soft time limit inside a child: SIGUSR1 becomes an exception in the task, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from celeriac.exceptions import SoftTimeLimitExceeded

if TYPE_CHECKING:
    from celeriac._core import Child
    from celeriac.worker.coroutines import CoroutineRunner


class Cancelled(BaseException):
    """Raised in a task that was given up: its hard limit has passed, or it is terminated.

    No `Exception`, so that code which goes on after any error does not go on after this.
    """


class SoftLimitException:
    """What a soft limit raises in the tasks of this process."""

    #: Written once, when the process starts, for tasks that know the exception by another class; read by whoever
    #: interrupts a task.
    exception: type[BaseException] = SoftTimeLimitExceeded


soft_limit = SoftLimitException()


class Limit(Protocol):
    """Where the tracer notes which request's code runs, and who runs coroutines there."""

    running: int | None
    coroutines: Any


class SoftLimit:
    """Knows which request's code runs on the main thread.

    All fields are written and read by the main thread: the tracer around the task, the signal handler within it.
    """

    __slots__ = ("_channel", "_otherwise", "coroutines", "running")

    def __init__(self, channel: Child, otherwise: Callable[[], None] | None = None) -> None:
        self._channel = channel
        #: What the signal means when it is no soft limit's.
        self._otherwise = otherwise
        #: The tag of the request whose task runs now; None outside of user code.
        self.running: int | None = None
        #: What runs `async def` tasks, once there is one.
        self.coroutines: CoroutineRunner | None = None

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Handler of SIGUSR1. A signal that comes late, for an earlier request, changes nothing."""
        tag = self.running
        if tag is None or not self._channel.soft_limit_passed(tag):
            if self._otherwise is not None:
                self._otherwise()
            return
        self.running = None
        if self.coroutines is not None and self.coroutines.interrupt(soft_limit.exception):
            return
        raise soft_limit.exception
