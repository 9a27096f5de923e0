"""Messages go through what a library has put around kombu's `Producer.publish`, where one has (Sentry's spans of queues).

kombu itself sends nothing: its method is called with a stand-in for a producer whose sending is ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from celeriac._core import Client, Publication
    from celeriac.app.base import Celery

__all__ = ["around_publish"]

_KOMBU = "kombu.messaging"


def around_publish(app: Celery, client: Client) -> Client:
    """The client, or what stands in front of it. Asked once, when a process makes its client."""
    producer = getattr(sys.modules.get(_KOMBU), "Producer", None)
    publish = getattr(producer, "publish", None)
    if publish is None or getattr(publish, "__module__", _KOMBU) == _KOMBU:
        return client
    return cast("Client", _PublishingClient(app, client, publish))


class _PublishingClient:
    """A client whose messages that are sent one by one pass the library. All else is the engine's client itself."""

    def __init__(self, app: Celery, client: Client, around: Callable[..., Any]) -> None:
        self._app = app
        self._client = client
        self._around = around

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def publish(self, publications: Sequence[Publication], *how: Any) -> Any:
        """Sends them; one alone by way of the library."""
        if len(publications) != 1:
            return self._client.publish(publications, *how)
        publication = publications[0]
        producer = _Producer(self._app, lambda: self._client.publish(publications, *how))
        properties = publication.properties
        try:
            self._around(
                producer,
                b"",
                routing_key=publication.routing_key,
                exchange=publication.exchange,
                headers=publication.headers,
                priority=properties.get("priority"),
                correlation_id=properties.get("correlation_id"),
            )
        except Exception:
            if producer.sent:
                raise
            # A kombu that asks more of a producer than this one has.
            import logging

            logging.getLogger("celery.app.amqp").debug("what is put around kombu's publish has failed", exc_info=True)
        return producer.answer if producer.sent else producer.send()


class _Producer:
    """What kombu's `publish` asks of its producer."""

    auto_declare = False
    compression: str | None = None
    exchange = routing_key = ""
    on_return = None

    def __init__(self, app: Celery, send: Callable[[], Any]) -> None:
        self.connection = self.__connection__ = app.connection()
        self._send = send
        self.sent = False
        self.answer: Any = None

    def send(self) -> Any:
        """Sends the message, once."""
        self.sent = True
        self.answer = self._send()
        return self.answer

    def _publish(self, *args: Any, **kwargs: Any) -> Any:
        return self.answer if self.sent else self.send()

    def _delivery_details(self, exchange: Any, delivery_mode: Any = None, **kwargs: Any) -> tuple[Any, Any]:
        return exchange, delivery_mode

    def _prepare(self, body: Any, *args: Any, **kwargs: Any) -> tuple[Any, None, None]:
        return body, None, None
