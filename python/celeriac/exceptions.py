"""Every exception of the package, one tree, with Celery's names.

On the wire they carry the module names that Celery peers know (`celery.exceptions`, `kombu.exceptions`,
`billiard.exceptions`); the table for that is in `serialization/failure.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType


def reraise(tp: type[BaseException], value: BaseException, tb: TracebackType | None = None) -> None:
    """Raises `value` with the traceback `tb`."""
    raise value.with_traceback(tb) if value.__traceback__ is not tb else value


class CeleryError(Exception):
    """Base of what this package raises."""


class ImproperlyConfigured(CeleryError):
    """A setting, URL or option cannot be used."""


class SecurityError(CeleryError):
    """Something was refused because it is not safe."""


class TaskPredicate(CeleryError):
    """Raised by a task to steer what happens to it, not because it failed."""


class Retry(TaskPredicate):
    """The task will be tried again."""

    message: str | None
    exc: BaseException | None
    excs: str | None
    when: float | datetime | None

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
        **_: Any,
    ) -> None:
        self.message = message
        if isinstance(exc, str):
            self.exc, self.excs = None, exc
        else:
            self.exc, self.excs = exc, _repr(exc) if exc is not None else None
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(message, exc, when)

    def humanize(self) -> str:
        """Says when, such as `in 3s`."""
        if isinstance(self.when, (int, float)):
            return f"in {self.when}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        if self.excs:
            return f"Retry {self.humanize()}: {self.excs}"
        return f"Retry {self.humanize()}"

    def __reduce__(self) -> tuple[type[Retry], tuple[Any, ...]]:
        return type(self), (self.message, self.exc or self.excs, self.when)


RetryTaskError = Retry


class Ignore(TaskPredicate):
    """The task sets its own state, or wants none."""


class Reject(TaskPredicate):
    """The task refuses its message.

    Args:
        reason: Kept in logs and dead letters.
        requeue: Give the message back to the queue.
    """

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"

    __str__ = __repr__


class TaskError(CeleryError):
    """Something is wrong with a task."""


class QueueNotFound(KeyError, TaskError):
    """A queue is not configured, and missing queues may not be created."""


class IncompleteStream(TaskError):
    """A graph of results is not ready as a whole."""


class NotRegistered(KeyError, TaskError):
    """No task of that name is registered."""

    def __repr__(self) -> str:
        return f"Task of kind {super().__str__()} never registered, please make sure it's imported."


class AlreadyRegistered(TaskError):
    """The name is taken."""


class TimeoutError(TaskError):
    """A wait ran out. Not the built-in one, as in Celery."""


class MaxRetriesExceededError(TaskError):
    """The task was tried as often as allowed."""

    def __init__(self, *args: Any, task_args: Any = (), task_kwargs: Any = None) -> None:
        self.task_args = task_args
        self.task_kwargs = {} if task_kwargs is None else task_kwargs
        super().__init__(*args)


class TaskRevokedError(TaskError):
    """The task was revoked, has expired or was terminated."""


class DuplicateTask(TaskError):
    """A call was not sent: another one has its key, and `on_duplicate="raise"` asks for this."""

    def __init__(self, task: str | None = None, task_id: str | None = None) -> None:
        super().__init__(task, task_id)
        self.task = task
        #: The id of the call that has the key.
        self.task_id = task_id

    def __str__(self) -> str:
        return f"task {self.task} was not sent: {self.task_id} has its key"


class LockNotAcquired(CeleryError):
    """A lock is held by another, or was lost."""


class InvalidTaskError(TaskError):
    """The message is not what the protocol says."""


class PayloadMissing(InvalidTaskError):
    """Arguments or a result are in a store of large payloads, and are not there (any more)."""


class ChordError(TaskError):
    """A part of a chord failed, so its body will not run."""


class BackendError(Exception):
    """A result backend failed."""


class BackendGetMetaError(BackendError):
    """A result could not be read."""

    def __init__(self, *args: Any, task_id: str = "") -> None:
        self.task_id = task_id
        super().__init__(*args)


class BackendStoreError(BackendError):
    """A result could not be stored."""

    def __init__(self, *args: Any, state: str = "", task_id: str = "") -> None:
        self.state = state
        self.task_id = task_id
        super().__init__(*args)


class SoftTimeLimitExceeded(Exception):
    """Raised in a task that runs over its soft time limit; it may clean up and end."""

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args}"


class TimeLimitExceeded(Exception):
    """A task ran over its hard time limit and its process was killed."""

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args}"


class WorkerLostError(Exception):
    """The process that ran the task is gone."""


class Terminated(Exception):
    """A task was ended on request."""


class KombuError(Exception):
    """Base of messaging errors."""


class OperationalError(KombuError):
    """Broker or backend cannot be reached, refuses, is full or damaged."""

    #: Results of what was sent before, when many calls are sent at once.
    sent: Sequence[Any] = ()


class SerializationError(KombuError):
    """Base of what serializers raise."""


class EncodeError(SerializationError):
    """An object cannot be encoded."""


class DecodeError(SerializationError):
    """Bytes cannot be decoded."""


class SerializerNotInstalled(KombuError):
    """No serializer of that name."""


class ContentDisallowed(SerializerNotInstalled):
    """The content type is not among those that are accepted."""


class ConnectionLimitExceeded(KombuError):
    """Too many connections."""


class WorkerShutdown(SystemExit):
    """Asks the worker to stop after what it runs."""


class WorkerTerminate(SystemExit):
    """Asks the worker to stop at once."""


SystemTerminate = WorkerTerminate


class CeleryWarning(UserWarning):
    """Base of warnings."""


class AlwaysEagerIgnored(CeleryWarning):
    """`send_task` does not honour `task_always_eager`."""


class DuplicateNodenameWarning(CeleryWarning):
    """Two workers have the same node name."""


class DuplicateTaskNameWarning(CeleryWarning):
    """Two functions want the same task name; the first one keeps it."""


class FixupWarning(CeleryWarning):
    """The integration of a framework found something odd."""


class HttpError(CeleryError):
    """An HTTP task has failed. The first argument is a sentence without secrets."""


class HttpConnectionError(HttpError):
    """The receiver could not be reached, or the connection broke."""


class HttpTimeout(HttpError):
    """There was no answer in time."""


class HttpRefused(HttpError):
    """The call was not made: its URL or the address behind it is not allowed, or it cannot be sent as it is."""


class HttpResponseTooLarge(HttpError):
    """The answer is larger than `http_max_response_bytes`."""


class HttpStatusError(HttpError):
    """The receiver did not answer with a success.

    Attributes:
        status: The status code.
        body: The beginning of the answer, when it is text.
    """

    def __init__(self, message: str = "", status: int | None = None, body: str | None = None) -> None:
        super().__init__(message, status, body)
        self.status = status
        self.body = body

    def __str__(self) -> str:
        return str(self.args[0])


class HttpRedirect(HttpStatusError):
    """The receiver answered with a redirect, which is not followed."""


class WebhookVerificationError(CeleryError):
    """A webhook is not what it claims to be, or too old."""


class NotConfigured(CeleryWarning):
    """There is no configuration."""


class SecurityWarning(CeleryWarning):
    """Something is allowed that is not safe."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Will be deprecated."""


class CDeprecationWarning(DeprecationWarning):
    """Is deprecated."""


def _repr(obj: object) -> str:
    try:
        return repr(obj)
    except Exception:
        return f"<{type(obj).__name__}>"


def __getattr__(name: str) -> Any:
    # The only exception that needs click, which a web process has no use for.
    if name != "CeleryCommandException":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from click import ClickException

    class CeleryCommandException(ClickException):
        """A command ends with a message and an exit code."""

        def __init__(self, message: str, exit_code: int) -> None:
            super().__init__(message)
            self.exit_code = exit_code  # type: ignore[misc]

    globals()[name] = CeleryCommandException
    return CeleryCommandException
