"""`EventReceiver`: hears events."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.app.current import app_or_default
from celeriac.events.event import get_exchange, utcoffset
from celeriac.exceptions import ContentDisallowed, DecodeError, ImproperlyConfigured
from celeriac.serialization import registry
from celeriac.utils import uuid

if TYPE_CHECKING:
    from celeriac._core import Listener
    from celeriac.app.base import Celery

__all__ = ["EventReceiver"]

logger = logging.getLogger("celery.events.receiver")

#: How often a capture looks at `should_stop`.
TICK = 1.0


class EventReceiver:
    """Hears events, and gives them to handlers.

    Args:
        channel: A connection of the app; accepted for compatibility.
        handlers: Type of event -> what is called with it; `*` gets those that have none.
        routing_key: Which events: types with dots, `*` stands for a word, `#` for any number of them.
        node_id: Names it.
        app: Whose broker.
        queue_prefix: Accepted for compatibility, as are the other options of its queue.
        accept: Serializers that are accepted; that of the setting `event_serializer`, and JSON.
        queue_ttl: See above.
        queue_expires: See above.
        queue_exclusive: See above.
        queue_durable: See above.

    Example:
        >>> with app.connection() as connection:
        ...     receiver = app.events.Receiver(connection, handlers={"task-failed": print})
        ...     receiver.capture(limit=None, timeout=None, wakeup=True)
    """

    app: Any = None
    #: Set it (from a handler, or another thread) to end a capture.
    should_stop = False

    def __init__(
        self,
        channel: Any = None,
        handlers: Mapping[str, Callable[[dict[str, Any]], Any]] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
        app: Celery | None = None,
        queue_prefix: str | None = None,
        accept: set[str] | None = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
        queue_exclusive: bool | None = None,
        queue_durable: bool | None = None,
    ) -> None:
        self.app = app_or_default(app or self.app)
        self.channel = channel
        self.handlers = {} if handlers is None else handlers
        self.routing_key = routing_key
        self.node_id = node_id or uuid()
        conf = self.app.conf
        exclusive = conf.event_queue_exclusive if queue_exclusive is None else queue_exclusive
        durable = conf.event_queue_durable if queue_durable is None else queue_durable
        if exclusive and durable:
            raise ImproperlyConfigured("the queue of a receiver is either exclusive or durable, not both")
        self.queue_prefix = queue_prefix or conf.event_queue_prefix
        self.exchange = get_exchange(channel, conf.event_exchange)
        self.clock = self.app.clock
        self.adjust_clock, self.forward_clock = self.clock.adjust, self.clock.forward
        self.accept = {conf.event_serializer, "json"} if accept is None else accept
        self._words = routing_key.split(".")

    @property
    def connection(self) -> Any:
        """What was given as channel."""
        return self.channel

    def process(self, type: str, event: dict[str, Any]) -> None:
        """Gives an event to its handler."""
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool | None = True) -> None:
        """Hears events until `should_stop` is set.

        Args:
            limit: Messages at the most; one may hold several events.
            timeout: Seconds without a message at the most.
            wakeup: Ask workers to say now that they live.

        Raises:
            TimeoutError: Nothing came for so long.
            OperationalError: The broker cannot be used.
        """
        for _ in self.itercapture(limit=limit, timeout=timeout, wakeup=wakeup):
            pass

    def itercapture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool | None = True
    ) -> Iterator[None]:
        """The same as an iterator: a turn for each message."""
        return self.consume(limit=limit, timeout=timeout, wakeup=wakeup)

    def consume(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool | None = True, **kwargs: Any
    ) -> Iterator[None]:
        """As `itercapture`."""
        listener = self.app.client.listen(self.exchange.name)
        try:
            if wakeup:
                self.wakeup_workers()
            count = 0
            while not self.should_stop and (not limit or count < limit):
                if not self._hear(listener, timeout):
                    return
                count += 1
                yield
        finally:
            listener.close()

    def _hear(self, listener: Listener, timeout: float | None) -> bool:
        """Deals with the next message; False when told to stop."""
        left = timeout
        while not self.should_stop:
            wait = TICK if left is None else min(TICK, left)
            message = listener.receive(wait)
            if message is not None:
                _, properties, data = message
                if self._receive_raw(properties, data):
                    return True
                continue
            if left is not None:
                left -= wait
                if left <= 0:
                    raise TimeoutError(f"no event came for {timeout} seconds")
        return False

    def _receive_raw(self, properties: dict[str, Any], data: bytes) -> bool:
        """Deals with a message; False when it is none of ours."""
        content_type, encoding = properties.get("content_type") or "", properties.get("content_encoding") or "utf-8"
        try:
            body = registry.loads(data, content_type, encoding, accept=self.accept)
        except (ContentDisallowed, DecodeError) as exc:
            logger.error("Can't decode message body: %r (type:%r encoding:%r)", exc, content_type, encoding)
            return False
        found = [event for event in (body if isinstance(body, list) else [body]) if self._wants(event)]
        for event in found:
            self._receive(event, None)
        return bool(found)

    def _wants(self, event: Any) -> bool:
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            logger.error("Can't read event: %.200r", event)
            return False
        return self.routing_key == "#" or _matches(self._words, event["type"].replace("-", ".").split("."))

    def _receive(self, body: Any, message: Any) -> None:
        for event in body if isinstance(body, list) else [body]:
            self.process(*self.event_from_message(event))

    def wakeup_workers(self, channel: Any = None) -> None:
        """Asks workers to say now that they live."""
        self.app.control.broadcast("heartbeat", connection=self.connection, channel=channel)

    def event_from_message(
        self, body: dict[str, Any], localize: bool = True, now: Callable[[], float] = time.time
    ) -> tuple[str, dict[str, Any]]:
        """Completes an event: the logical clock, `local_received`, and the timestamp in this machine's zone.

        Args:
            body: The event; it is changed.
            localize: Move the timestamp of one that comes from another zone.
            now: Gives the time.
        """
        kind = body["type"]
        if kind == "task-sent":
            # Clients hear nothing, so that their clocks say nothing: just before what we hear next.
            body["clock"] = (self.clock.value or 1) - 1
            self.adjust_clock(body["clock"])
        elif isinstance(body.get("clock"), int):
            self.adjust_clock(body["clock"])
        else:
            body["clock"] = self.forward_clock()
        if localize and "utcoffset" in body and "timestamp" in body:
            body["timestamp"] -= (body["utcoffset"] - utcoffset()) * 3600
        body["local_received"] = now()
        return kind, body


def _matches(pattern: list[str], words: list[str]) -> bool:
    """Whether a routing key fits a topic's pattern."""
    if not pattern:
        return not words
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(_matches(rest, words[place:]) for place in range(len(words) + 1))
    return bool(words) and head in ("*", words[0]) and _matches(rest, words[1:])
