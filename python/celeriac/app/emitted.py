"""Events between services: their envelope, by the names of CloudEvents 1.0, and how they are sent.

The message of an event is that of the task `celeriac.event`, with the envelope as its argument, addressed to no queue but to
a topic exchange. `handlers` says what becomes of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid5

from celeriac._core import Publication
from celeriac.app import send
from celeriac.utils import uuid

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["EXCHANGE", "TASK", "Attributes", "Event", "aemit", "emit", "make"]

#: The topic exchange.
EXCHANGE = send.EVENTS
#: The task whose messages carry events.
TASK = "celeriac.event"
#: What AMQP takes as a routing key.
_LONGEST = 255
_NAMESPACE = UUID("6f0cbb0e-6a4b-5a0c-9d0c-3f5d2a1be6c7")
#: Options of a call that an event can have.
_OPTIONS = frozenset({"confirm_timeout", "expires", "headers", "priority", "retry", "retry_policy", "timeout"})
_DECLARE = {"name": "", "no_declare": True, "exchange": {"name": EXCHANGE, "type": "topic"}}
#: Attributes that the envelope has by its specification.
_KNOWN = ("specversion", "id", "type", "source", "subject", "time", "datacontenttype", "dataschema", "data")


class Event(dict[str, Any]):
    """What happened: a mapping with CloudEvents' names, whose values are attributes as well. It is JSON as it is.

    Attributes:
        id: Of the event. Two events of one source with one id are one.
        type: What happened.
        source: Who told it.
        subject: What it is about; may be None.
        data: More of it.
        time: When it happened, as a datetime (in the mapping: a text).
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in _KNOWN:
            return None
        raise AttributeError(f"this event has no attribute {name!r}")

    @property
    def time(self) -> datetime | None:
        """When it happened."""
        text = self.get("time")
        return None if text is None else datetime.fromisoformat(text)

    def task_id(self, handler: Any) -> str:
        """The id of a handler's run for this event, by which its result can be asked for. Always the same for one event,
        so that one that comes twice is recognised.

        Example:
            >>> app.AsyncResult(event.task_id(send_mail)).get(timeout=10)

        Args:
            handler: The task, or its name.
        """
        name = getattr(handler, "name", handler)
        return str(uuid5(_NAMESPACE, json.dumps([self.get("source"), self.get("id"), name])))

    def __repr__(self) -> str:
        return f"<Event {self.get('type')} {self.get('id')} from {self.get('source')}>"


class Attributes(NamedTuple):
    """What may be said of an event besides its type and data."""

    id: str | None = None
    source: str | None = None
    subject: str | None = None
    time: datetime | None = None
    datacontenttype: str = "application/json"
    dataschema: str | None = None
    extensions: Mapping[str, Any] | None = None


def make(app: Celery, type: str, data: Any, attributes: Attributes) -> Event:
    """An event to send.

    Raises:
        ValueError: Its type is not words with dots between.
    """
    check_words(type, "the type of an event", "")
    happened = attributes.time or datetime.now(UTC)
    if happened.tzinfo is None:
        happened = happened.replace(tzinfo=app.timezone)
    event = Event(
        specversion="1.0",
        id=attributes.id or uuid(),
        type=type,
        source=attributes.source or app.conf.event_service or app.main or "celeriac",
        time=happened.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        datacontenttype=attributes.datacontenttype,
        data=data,
    )
    for name in ("subject", "dataschema"):
        if (value := getattr(attributes, name)) is not None:
            event[name] = value
    for name, value in (attributes.extensions or {}).items():
        if name in _KNOWN:
            raise ValueError(f"{name!r} is no extension: it is an argument of emit()")
        event[name] = value
    return event


def check_words(text: str, what: str, wild: str) -> None:
    """Raises unless a text is words with dots between.

    Args:
        text: It.
        what: For the error.
        wild: Words that may stand alone though they have letters that others may not.
    """
    if not isinstance(text, str) or not text:
        raise ValueError(f"{what} is a text such as 'order.created', not {text!r}")
    if len(text.encode()) > _LONGEST:
        raise ValueError(f"{what} has more than {_LONGEST} bytes: {text[:40]!r}...")
    for word in text.split("."):
        if word in wild.split() and word:
            continue
        if not word or any(letter.isspace() or letter in "*#" or not letter.isprintable() for letter in word):
            hint = "words with dots between" + (", of which '*' stands for one and '#' for any number" if wild else "")
            raise ValueError(f"{what} is {hint}, not {text!r}")


def emit(app: Celery, event: Event, options: dict[str, Any]) -> Event:
    """Sends an event.

    Raises:
        OperationalError: The broker does not take it.
    """
    _check(options)
    if app.conf.values_now()["task_always_eager"]:
        return _run_here(app, event)
    send.publish(app, _message(app, event, options), options)
    return event


async def aemit(app: Celery, event: Event, options: dict[str, Any]) -> Event:
    """The same for a coroutine."""
    _check(options)
    if app.conf.values_now()["task_always_eager"]:
        return _run_here(app, event)
    await send.publish_later(app, _message(app, event, options), options)
    return event


def _check(options: Mapping[str, Any]) -> None:
    if strange := options.keys() - _OPTIONS:
        names = ", ".join(sorted(_OPTIONS))
        raise TypeError(f"emit() has no option {min(strange)!r}; besides the attributes of the event there are {names}")


def _message(app: Celery, event: Event, options: Mapping[str, Any]) -> send.Message:
    place = {"exchange": EXCHANGE, "routing_key": event["type"]}
    wanted = {
        **options,
        **place,
        "task_id": event.task_id(""),
        "serializer": "json",
        "ignore_result": True,
        "argsrepr": f"({event!r},)",
    }
    message = send.compose(app, TASK, (event,), {}, None, wanted)
    made = message.publication
    message.publication = Publication(made.headers, made.properties, made.body, **place, declare=_DECLARE)
    return message


def _run_here(app: Celery, event: Event) -> Event:
    """`task_always_eager`: the handlers of this app run now; one that raises stops no other."""
    if app._handlers is not None:
        app._handlers.run_eagerly(event)
    return event
