"""What an app has for events between services, and to hear what happens to tasks. Nothing is imported before it is used."""

from __future__ import annotations

# Type checkers take this name for true.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime
    from typing import Any

    from celeriac.app.emitted import Event
    from celeriac.app.handlers import Handlers
    from celeriac.app.heard import Subscription, TaskStream

__all__ = ["ServiceEvents"]


class ServiceEvents:
    """The part of an app that deals with events between services."""

    #: Made by the first `on_event`.
    _handlers: Handlers | None = None

    def emit(
        self,
        type: str,
        data: Any = None,
        *,
        id: str | None = None,
        source: str | None = None,
        subject: str | None = None,
        time: datetime | None = None,
        datacontenttype: str = "application/json",
        dataschema: str | None = None,
        extensions: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Event:
        """Tells all services that something has happened. Returns when the broker has it.

        Example:
            >>> app.emit("order.created", {"id": 7, "total": 120}, subject="orders/7")

        Args:
            type: What happened: words with dots between.
            data: More of it, as JSON.
            id: Makes the event recognisable when it comes twice; made up unless given.
            source: Who tells it; the setting `event_service` unless given, or the name of the app.
            subject: What it is about.
            time: When it happened; now unless given.
            datacontenttype: Of the data.
            dataschema: Where the data is described.
            extensions: Further attributes of CloudEvents.
            **options: `priority`, `expires`, `headers`, `retry`, `retry_policy`, `timeout` and `confirm_timeout`, as of
                `apply_async`.

        Returns:
            The event, with its id.

        Raises:
            ValueError: The type is not of that form.
            TypeError: An option is not one of these.
            EncodeError: The data cannot be JSON.
            OperationalError: The broker does not take it.
        """
        from celeriac.app import emitted

        attributes = emitted.Attributes(id, source, subject, time, datacontenttype, dataschema, extensions)
        return emitted.emit(self, emitted.make(self, type, data, attributes), options)  # type: ignore[arg-type]

    async def aemit(self, type: str, data: Any = None, **options: Any) -> Event:
        """`emit` for coroutines: the event loop goes on meanwhile."""
        from celeriac.app import emitted

        known = {name: options.pop(name) for name in emitted.Attributes._fields if name in options}
        event = emitted.make(self, type, data, emitted.Attributes(**known))  # type: ignore[arg-type]
        return await emitted.aemit(self, event, options)  # type: ignore[arg-type]

    def on_event(
        self, *patterns: str, name: str | None = None, queue: str | None = None, **options: Any
    ) -> Callable[[Callable[..., Any]], Any]:
        """Decorator: makes a task of a function, which is run for each event of these types.

        Its argument is the `Event`. Each handler is a task of its own: its retries and dead letters are no other's. It is
        acknowledged late and, when it fails for good, its message becomes a dead letter, unless its options say otherwise.

        Example:
            >>> @app.on_event("order.*", autoretry_for=(OSError,), max_retries=5)
            ... def send_mail(event):
            ...     print(event.type, event.data["id"])

        Args:
            *patterns: Types: `*` stands for one word, `#` or `**` for any number of words.
            name: Of the task; as for other tasks unless given.
            queue: Where its messages wait; the service's queue of events unless given, or as `task_routes` says.
            **options: Of the task, and `bind`.

        Raises:
            ValueError: A pattern is not of that form.
            TypeError: There is none.
        """
        from celeriac.app import handlers

        return handlers.decorator(self, patterns, name, queue, options)  # type: ignore[arg-type]

    def bind_events(self) -> list[str]:
        """Declares this service's queue, and binds it with the patterns of its handlers; those that it has no more are
        unbound. A worker does it when it starts; call this in a deploy, so that nothing is missed before.

        Returns:
            The patterns.

        Raises:
            ImproperlyConfigured: The service has no name: set `event_service`.
            OperationalError: The broker cannot be used.
        """
        from celeriac.app import handlers

        return handlers.bind(self)  # type: ignore[arg-type]

    def subscribe(self, *patterns: str, timeout: float | None = None, buffer: int = 1000) -> Subscription:
        """Hears events from now on, while it is open: at most once, with no queue. For `for` and `async for`.

        Example:
            >>> with app.subscribe("order.*") as events:
            ...     for event in events:
            ...         print(event.type)

        Args:
            *patterns: As for `on_event`; all events unless given.
            timeout: Seconds without an event after which the iteration ends; None: never.
            buffer: Events that wait at the most for whoever iterates. Of more the oldest are dropped; `missed` counts them.

        Raises:
            OperationalError: The broker cannot be used.
        """
        from celeriac.app.heard import Subscription

        return Subscription(self, patterns, timeout, buffer)  # type: ignore[arg-type]

    def task_stream(
        self,
        after: str | None = None,
        *,
        types: str | Iterable[str] | None = None,
        tasks: str | Iterable[str] | None = None,
        timeout: float | None = None,
        buffer: int = 10_000,
    ) -> TaskStream:
        """Hears what happens to tasks. Workers tell it when the setting `task_stream` is on. For `for` and `async for`.

        Args:
            after: The cursor of the last event that was read: goes on after it. None: from now on. RabbitMQ keeps nothing to
                go on from.
            types: `started`, `progress`, `succeeded`, `failed`, `retried`, `revoked`, `rejected`, `ignored`, `stalled`,
                `dead-lettered`; all unless given.
            tasks: Names of tasks, in which `*` stands for anything; all unless given.
            timeout: Seconds without an event after which the iteration ends; None: never.
            buffer: Where the broker keeps no stream: events that wait at the most.

        Raises:
            ImproperlyConfigured: The broker cannot go on from that cursor.
            OperationalError: The broker cannot be used.
            ValueError: There is no such type.
        """
        from celeriac.app.heard import TaskStream

        return TaskStream(self, after, types, tasks, timeout, buffer)  # type: ignore[arg-type]
