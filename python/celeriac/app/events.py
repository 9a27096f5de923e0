"""`app.events`: dispatcher, receiver and state of events, bound to an app; and `task-sent`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celeriac.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from celeriac._core import Publication
    from celeriac.app.base import Celery
    from celeriac.events.dispatcher import EventDispatcher

__all__ = ["Events"]


class Events:
    """Makes the classes of an app's own. Subclasses may name others.

    Args:
        app: Whose.
    """

    receiver_cls = "celeriac.events.receiver:EventReceiver"
    dispatcher_cls = "celeriac.events.dispatcher:EventDispatcher"
    state_cls = "celeriac.events.state:State"

    def __init__(self, app: Celery) -> None:
        self.app = app

    def _bound(self, path: str) -> Any:
        base = symbol_by_name(path)
        return type(base.__name__, (base,), {"app": self.app, "__module__": base.__module__, "__doc__": base.__doc__})

    @cached_property
    def Receiver(self) -> Any:
        """`EventReceiver` of this app."""
        return self._bound(self.receiver_cls)

    @cached_property
    def Dispatcher(self) -> Any:
        """`EventDispatcher` of this app."""
        return self._bound(self.dispatcher_cls)

    @cached_property
    def State(self) -> Any:
        """`State` of this app."""
        return self._bound(self.state_cls)

    @contextmanager
    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> Iterator[EventDispatcher]:
        """A dispatcher for a moment; what cannot be sent raises unless it may be buffered."""
        with self.Dispatcher(hostname=hostname, enabled=enabled, buffer_while_offline=buffer_while_offline) as found:
            yield found

    @cached_property
    def _sender(self) -> EventDispatcher:
        made: EventDispatcher = self.Dispatcher()
        return made

    def task_sent(self, publication: Publication) -> None:
        """Tells monitors of a task's message that was sent (`task_send_sent_event`). Never raises for the broker."""
        headers, declared = publication.headers, publication.declare
        if "id" not in headers:
            # Protocol 1 has it all in the body, which may be anything by now.
            return
        exchange, routing_key = publication.exchange, publication.routing_key
        fields = {
            "uuid": headers["id"],
            "root_id": headers.get("root_id"),
            "parent_id": headers.get("parent_id"),
            "name": headers.get("task"),
            "args": headers.get("argsrepr"),
            "kwargs": headers.get("kwargsrepr"),
            "retries": headers.get("retries", 0),
            "eta": headers.get("eta"),
            "expires": headers.get("expires"),
            "queue": declared["name"] if declared else routing_key,
            "exchange": exchange,
            "routing_key": routing_key,
        }
        self._sender.send("task-sent", **fields)

    def tasks_sent(self, publications: Iterable[Publication]) -> None:
        """The same for many."""
        for publication in publications:
            self.task_sent(publication)
