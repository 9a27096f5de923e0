"""Correlation ids and log context: what is known of a request goes with all tasks that follow from it, and into the log.

    app.add_middleware(Correlation())
    app.conf.worker_task_log_format = "%(asctime)s %(correlation_id)s %(task_name)s: %(message)s"

It travels in celeriac's own header, through retries, chains, groups and chords.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from celeriac.app import own
from celeriac.middleware import Call, Middleware, Run
from celeriac.utils import uuid

if TYPE_CHECKING:
    from celeriac.app.context import Context

__all__ = ["Correlation", "LogContext", "asgi", "bind", "correlation_id", "fields", "log_context", "wsgi"]

#: The member of celeriac's own header.
MEMBER = "correlation"
#: The header of web requests that it is taken from.
REQUEST_HEADER = "X-Request-ID"
#: Characters of an id, and of all values of a context together: every message carries them.
LONGEST_ID = 128
LONGEST_CONTEXT = 2048
_ID = "correlation_id"

_NOTHING: Mapping[str, str] = MappingProxyType({})
_current: ContextVar[Mapping[str, str]] = ContextVar("celeriac_correlation", default=_NOTHING)


def correlation_id() -> str | None:
    """The correlation id of what runs here; None outside of any."""
    return _current.get().get(_ID)


def fields() -> Mapping[str, str]:
    """All that is bound here."""
    return _current.get()


def log_context() -> dict[str, str]:
    """What was bound here, and travels: the correlation id not among it."""
    return {name: value for name, value in _current.get().items() if name != _ID}


@contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """While this lasts, these are in log records and go with all tasks that are sent. None takes one out.

    Example:
        >>> with bind(correlation_id=request.headers["X-Request-ID"], tenant="acme"):
        ...     task.delay()

    Args:
        **fields: `correlation_id` (128 characters at most) and others; texts, 2,048 characters at most in all.

    Raises:
        ValueError: That is too much for the header of every message.
    """
    merged = {**_current.get(), **{name: str(value) for name, value in fields.items() if value is not None}}
    for name in [name for name, value in fields.items() if value is None]:
        merged.pop(name, None)
    if len(merged.get(_ID, "")) > LONGEST_ID:
        raise ValueError(f"a correlation id may have {LONGEST_ID} characters at most")
    if sum(len(name) + len(value) for name, value in merged.items() if name != _ID) > LONGEST_CONTEXT:
        raise ValueError(f"the log context may have {LONGEST_CONTEXT} characters at most: it goes with every message")
    token = _current.set(MappingProxyType(merged))
    try:
        yield
    finally:
        _current.reset(token)


class Correlation(Middleware):
    """Sends the correlation id and the log context with each call, and has them while its task runs.

    Args:
        header: Header of a web request that the id is taken from where `wsgi` or `asgi` has not bound one (Flask).
        source: Called for the id instead, such as another library's `correlation_id.get`; may give None.
        make: Makes a new one.
    """

    def __init__(
        self,
        *,
        header: str = REQUEST_HEADER,
        source: Callable[[], str | None] | None = None,
        make: Callable[[], str] = uuid,
    ) -> None:
        self._header = header
        self._source = source
        self._make = make

    def before_publish(self, call: Call) -> None:
        """The message gets what is bound here; without an id, that of the web request, or a new one."""
        fields = _current.get()
        found = fields.get(_ID)
        if found is None:
            if call.cause is not None:
                # Nothing of the task's own runs here: the body of a chord, the link of a task that was killed.
                call.members[MEMBER] = _of_message(call.cause)
                return
            found = (self._source or self._of_request)() or self._make()
        call.members[MEMBER] = {**fields, _ID: found[:LONGEST_ID]}

    def before_task(self, run: Run) -> None:
        """The task has what its message has brought; one without any has the id of the first task of its workflow."""
        run.data[self] = _current.set(_of_message(run.request))

    def after_task(self, run: Run) -> None:
        """What was before."""
        _current.reset(run.data.pop(self))

    def _of_request(self) -> str | None:
        flask: Any = sys.modules.get("flask")
        if flask is None or not flask.has_request_context():
            return None
        found: str | None = flask.request.headers.get(self._header)
        return found


def _of_message(request: Context) -> dict[str, str]:
    """What a message has brought; the id of the first task of its workflow, if it has brought none."""
    fields = (request.get(own.HEADER) or {}).get(MEMBER)
    if not isinstance(fields, dict) or not fields.get(_ID):
        return {_ID: request.root_id or request.id or ""}
    return {str(name): str(value) for name, value in fields.items()}


class LogContext(logging.Filter):
    """Gives log records `correlation_id` (`-` without one), `log_context` (`a=1 b=2`) and what is bound, by name.

    A worker adds it by itself where `worker_log_format` or `worker_task_log_format` has `%(correlation_id)s` or
    `%(log_context)s`. Elsewhere: `handler.addFilter(LogContext())`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass."""
        fields = _current.get()
        named = vars(record)
        for name, value in fields.items():
            named.setdefault(name, value)
        named.setdefault(_ID, "-")
        named.setdefault("log_context", " ".join(f"{name}={value}" for name, value in fields.items() if name != _ID))
        return True


def wsgi(application: Callable[..., Iterable[bytes]], header: str = REQUEST_HEADER) -> Callable[..., Iterable[bytes]]:
    """Wraps a WSGI application: each request runs with the id of its header, or a new one.

    Example:
        >>> app.wsgi_app = wsgi(app.wsgi_app)
    """
    key = "HTTP_" + header.upper().replace("-", "_")

    def wrapped(environ: MutableMapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with bind(correlation_id=(environ.get(key) or uuid())[:LONGEST_ID]):
            return application(environ, start_response)

    return wrapped


def asgi(application: Callable[..., Awaitable[None]], header: str = REQUEST_HEADER) -> Callable[..., Awaitable[None]]:
    """Wraps an ASGI application in the same way.

    Example:
        >>> app = asgi(FastAPI())
    """
    key = header.lower().encode()

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await application(scope, receive, send)
            return
        found = next((value.decode("latin-1") for name, value in scope["headers"] if name == key), "")
        with bind(correlation_id=(found or uuid())[:LONGEST_ID]):
            await application(scope, receive, send)

    return wrapped
