"""`EventDispatcher`: sends events."""

from __future__ import annotations

import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac._core import Publication
from celeriac.app.current import app_or_default
from celeriac.events import event as events
from celeriac.exceptions import OperationalError
from celeriac.serialization import registry
from celeriac.utils.nodenames import anon_nodename

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["EventDispatcher"]

#: Events kept while the broker cannot be reached; the oldest go first.
MAX_OFFLINE = 10_000


class EventDispatcher:
    """Sends events to monitors.

    Args:
        connection: Accepted for compatibility: the app's client sends.
        hostname: Who tells; a name of this process unless given.
        enabled: Off: nothing is sent.
        channel: Accepted for compatibility.
        buffer_while_offline: Keep what cannot be sent for the next `flush`; else sending raises.
        app: Whose broker.
        serializer: Of the events; the setting `event_serializer` unless given.
        groups: Send events of these groups only.
        delivery_mode: 1 transient, 2 persistent.
        buffer_group: Groups whose events are collected, and sent together.
        buffer_limit: So many at the most.
        on_send_buffered: Called when one was collected.

    Raises:
        OperationalError: By `send`, when the broker did not take it and nothing is buffered.
    """

    app: Any = None

    def __init__(
        self,
        connection: Any = None,
        hostname: str | None = None,
        enabled: bool = True,
        channel: Any = None,
        buffer_while_offline: bool = True,
        app: Celery | None = None,
        serializer: str | None = None,
        groups: Iterable[str] | None = None,
        delivery_mode: int = 1,
        buffer_group: Iterable[str] | None = None,
        buffer_limit: int = 24,
        on_send_buffered: Callable[[], Any] | None = None,
    ) -> None:
        self.app = app_or_default(app or self.app)
        self.connection = connection
        self.channel = channel
        self.hostname = hostname or anon_nodename()
        self.buffer_while_offline = buffer_while_offline
        self.buffer_group = frozenset(buffer_group or ())
        self.buffer_limit = buffer_limit
        self.on_send_buffered = on_send_buffered
        self.serializer = serializer or self.app.conf.event_serializer
        self.groups = set(groups or ())
        self.delivery_mode = delivery_mode
        self.clock = self.app.clock
        self.headers = {"hostname": self.hostname}
        self.pid = os.getpid()
        self.on_enabled: set[Callable[[], Any]] = set()
        self.on_disabled: set[Callable[[], Any]] = set()
        self.enabled = False
        self.exchange = events.get_exchange(connection, self.app.conf.event_exchange)
        #: Guards the buffers.
        self.mutex = threading.Lock()
        self._collected: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._outbound_buffer: deque[tuple[Any, str]] = deque(maxlen=MAX_OFFLINE)
        if enabled:
            self.enable()

    def __enter__(self) -> EventDispatcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def enable(self) -> None:
        """Sends from now on."""
        self.enabled = True
        for callback in list(self.on_enabled):
            callback()

    def disable(self) -> None:
        """Sends nothing any more."""
        if self.enabled:
            self.enabled = False
            self.close()
            for callback in list(self.on_disabled):
                callback()

    def send(
        self,
        type: str,
        blind: bool = False,
        utcoffset: Callable[[], float] = events.utcoffset,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
        Event: Callable[..., dict[str, Any]] = events.Event,
        **fields: Any,
    ) -> None:
        """Sends an event.

        Args:
            type: Its type; what is before the first dash is its group.
            blind: Leave the logical clock alone.
            utcoffset: Gives the hours west of UTC.
            retry: Accepted for compatibility: the client tries for a while in any case.
            retry_policy: As above.
            Event: Makes the event.
            **fields: What it says; must be possible to serialize.
        """
        if not self.enabled:
            return
        group = events.group_from(type)
        if self.groups and group not in self.groups:
            return
        made = self._make(type, fields, blind, Event, utcoffset)
        if group not in self.buffer_group:
            self._publish(made, type.replace("-", "."))
            return
        with self.mutex:
            self._collected[group].append(made)
            full = len(self._collected[group]) >= self.buffer_limit
        if full:
            self.flush()
        elif self.on_send_buffered is not None:
            self.on_send_buffered()

    def publish(
        self,
        type: str,
        fields: Mapping[str, Any],
        producer: Any = None,
        blind: bool = False,
        Event: Callable[..., dict[str, Any]] = events.Event,
        **kwargs: Any,
    ) -> None:
        """Sends an event whatever is enabled. The producer is accepted for compatibility."""
        self._publish(self._make(type, fields, blind, Event, events.utcoffset), type.replace("-", "."))

    def _make(
        self,
        type: str,
        fields: Mapping[str, Any],
        blind: bool,
        make: Callable[..., dict[str, Any]],
        utcoffset: Callable[[], float],
    ) -> dict[str, Any]:
        clock = None if blind else self.clock.forward()
        return make(type, hostname=self.hostname, utcoffset=utcoffset(), pid=self.pid, clock=clock, **fields)

    def _publish(self, body: Any, routing_key: str) -> None:
        content_type, content_encoding, data = registry.dumps(body, self.serializer)
        properties = {
            "content_type": content_type,
            "content_encoding": content_encoding,
            "delivery_mode": self.delivery_mode,
            "priority": 0,
        }
        name = self.exchange.name
        publication = Publication(self.headers, properties, data, exchange=name, routing_key=routing_key)
        try:
            self.app.client.broadcast(name, publication, self.app.conf.event_queue_ttl or 5.0)
        except OperationalError:
            if not self.buffer_while_offline:
                raise
            self._outbound_buffer.append((body, routing_key))

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Sends what waits.

        Args:
            errors: What could not be sent before.
            groups: What was collected.
        """
        with self.mutex:
            waiting: list[tuple[Any, str]] = []
            if errors:
                waiting += self._outbound_buffer
                self._outbound_buffer.clear()
            if groups:
                waiting += [(collected, f"{group}.multi") for group, collected in self._collected.items() if collected]
                self._collected.clear()
        for body, routing_key in waiting:
            self._publish(body, routing_key)

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Takes over what another one could not send."""
        self._outbound_buffer.extend(other._outbound_buffer)

    def close(self) -> None:
        """Ends it. The client it sends with is the app's, and stays."""
