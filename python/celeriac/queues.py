"""Defaults of queues: what holds for every task that is sent to one, unless the task says otherwise.

Example:
    >>> app.conf.task_queue_defaults = {
    ...     "images": QueueDefaults(priority=5, max_retries=5, backoff=Backoff.exponential(base=2, max=300)),
    ...     "mail": {"max_retries": 3, "backoff": 10, "dead_letter": True},
    ... }
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from celeriac.exceptions import ImproperlyConfigured

__all__ = ["Backoff", "Delay", "QueueDefaults", "read_defaults"]

#: Seconds until the next try, by the number of the try that failed (from 1) and what it raised.
Delay = Callable[[int, BaseException], float]

_LONGEST = 64


class Backoff:
    """How long to wait between tries."""

    @staticmethod
    def fixed(seconds: float) -> Delay:
        """Always so many seconds."""
        if seconds < 0:
            raise ImproperlyConfigured(f"a back-off of {seconds!r} seconds is in the past: give 0 or more")
        return lambda attempt, exc: seconds

    @staticmethod
    def exponential(base: float = 2, max: float = 600, jitter: bool = True) -> Delay:
        """`base`, `base` times `base`, ... seconds.

        Args:
            base: The first delay in seconds, and the factor of each further one; above 1.
            max: The longest delay, in seconds.
            jitter: Draw each delay evenly from 0 up to that: what failed together is not tried again together.
        """
        if base <= 1:
            raise ImproperlyConfigured(
                f"an exponential back-off needs a base above 1, not {base!r}; or use Backoff.fixed"
            )

        def delay(attempt: int, exc: BaseException) -> float:
            # No more than can be computed: a power of thousands is beyond a float.
            longest = min(max, base ** min(attempt, _LONGEST))
            return random.uniform(0, longest) if jitter else longest

        return delay


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDefaults:
    """What holds for the tasks of one queue. None leaves it to the settings. A task's own options win.

    Attributes:
        priority: Priority of messages; put into the message when it is sent.
        expires: Seconds after which a message is not run any more; put into the message when it is sent.
        max_retries: Tasks that raise, whatever it is, are tried again so often. A task with `autoretry_for` follows its
            own rules; one with `max_retries` of its own is tried as often as it says.
        backoff: How long to wait before each further try: seconds, one of `Backoff`, or a function of the number of the
            try that failed (from 1) and its exception. At once unless given.
        time_limit: Hard limit in seconds.
        soft_time_limit: Soft limit in seconds.
        dead_letter: A task that fails for good becomes a dead letter.
        keep_successes: So many results of tasks of this queue that have succeeded are kept; older ones are removed.
        keep_failures: The same of tasks that have failed.
        keep_for: Seconds that results are kept; 0 is for ever.
    """

    priority: int | None = None
    expires: float | None = None
    max_retries: int | None = None
    backoff: float | Delay | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    dead_letter: bool | None = None
    keep_successes: int | None = None
    keep_failures: int | None = None
    keep_for: float | timedelta | None = None

    def __post_init__(self) -> None:
        if self.backoff is not None and self.max_retries is None:
            raise ImproperlyConfigured(
                "a queue has a backoff and no max_retries: say how often its tasks are tried again"
            )
        for name in ("max_retries", "keep_successes", "keep_failures"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ImproperlyConfigured(f"{name} of a queue is a whole number from 0 on, not {value!r}")

    def delay(self, attempt: int, exc: BaseException) -> float:
        """Seconds before the next try."""
        if self.backoff is None:
            return 0
        return max(0.0, self.backoff(attempt, exc) if callable(self.backoff) else self.backoff)

    @property
    def send_options(self) -> dict[str, Any]:
        """What a message takes from its queue."""
        found = {"priority": self.priority, "expires": self.expires}
        return {name: value for name, value in found.items() if value is not None}

    def worker_options(self) -> dict[str, Any]:
        """What the engine's worker must know."""
        return {
            "dead_letter": self.dead_letter,
            "keep_successes": self.keep_successes,
            "keep_failures": self.keep_failures,
            "result_expires_ms": milliseconds(self.keep_for),
            "time_limit": self.time_limit,
            "soft_time_limit": self.soft_time_limit,
        }


def read_defaults(queue: str, given: Any) -> QueueDefaults:
    """The defaults of a queue, from a mapping or as they are.

    Raises:
        ImproperlyConfigured: A name in it is none of the known ones.
    """
    if isinstance(given, QueueDefaults):
        return given
    known = [field.name for field in fields(QueueDefaults)]
    if not isinstance(given, Mapping) or (unknown := given.keys() - set(known)):
        what = f"{given!r}" if not isinstance(given, Mapping) else ", ".join(sorted(map(str, unknown)))
        raise ImproperlyConfigured(f"defaults of queue {queue!r}: {what} is not known; there are {', '.join(known)}")
    return QueueDefaults(**given)


def milliseconds(seconds: float | timedelta | None) -> int | None:
    """A time in whole milliseconds."""
    if seconds is None:
        return None
    return int((seconds.total_seconds() if isinstance(seconds, timedelta) else seconds) * 1000)
