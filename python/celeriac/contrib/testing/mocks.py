"""Messages for tests that have no broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock, Mock

from celeriac.serialization import registry
from celeriac.utils import uuid

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.canvas.signature import Signature

__all__ = ["ContextMock", "TaskMessage", "TaskMessage1", "task_message_from_sig"]


def TaskMessage(
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    errbacks: Sequence[Any] | None = None,
    chain: Sequence[Any] | None = None,
    shadow: str | None = None,
    utc: bool | None = None,
    **options: Any,
) -> Any:
    """A message of protocol 2, as a consumer would get it. `options` are more headers."""
    id = id or uuid()
    message = Mock(name=f"TaskMessage-{id}")
    message.headers = {"id": id, "task": name, "shadow": shadow, **options}
    message.payload = (args, kwargs or {}, {"callbacks": callbacks, "errbacks": errbacks, "chain": chain})
    message.content_type, message.content_encoding, message.body = registry.dumps(message.payload, "json")
    return message


def TaskMessage1(
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    errbacks: Sequence[Any] | None = None,
    chain: Sequence[Any] | None = None,
    **options: Any,
) -> Any:
    """A message of protocol 1. `options` are more items of its body."""
    id = id or uuid()
    message = Mock(name=f"TaskMessage-{id}")
    message.headers = {}
    links = {"callbacks": callbacks, "errbacks": errbacks}
    message.payload = {"task": name, "id": id, "args": args, "kwargs": kwargs or {}, **links, **options}
    message.content_type, message.content_encoding, message.body = registry.dumps(message.payload, "json")
    return message


def task_message_from_sig(app: Celery, sig: Signature[Any], utc: bool = True, TaskMessage: Any = TaskMessage) -> Any:  # noqa: N803 -- Celery's
    """The message that a signature would be sent as."""
    sig.freeze()
    options = dict(sig.options)
    links = {name: options.pop(option, None) for name, option in (("callbacks", "link"), ("errbacks", "link_error"))}
    countdown, eta, expires = (options.pop(name, None) for name in ("countdown", "eta", "expires"))
    if countdown:
        eta = app.now() + timedelta(seconds=countdown)
    if isinstance(expires, (int, float)):
        expires = app.now() + timedelta(seconds=expires)
    return TaskMessage(
        sig.task,
        id=sig.id,
        args=sig.args,
        kwargs=sig.kwargs,
        eta=_text(eta),
        expires=_text(expires),
        utc=utc,
        **{name: [dict(link) for link in given] if given else None for name, given in links.items()},
        **options,
    )


def ContextMock(*args: Any, **kwargs: Any) -> Any:
    """A mock that can be used with `with`, and gives itself."""
    mock = MagicMock(*args, **kwargs)
    mock.__enter__.return_value = mock
    mock.__exit__.return_value = None
    return mock


def _text(moment: Any) -> Any:
    return moment.isoformat() if isinstance(moment, datetime) else moment
