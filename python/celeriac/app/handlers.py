"""Handlers of events between services, the queue of a service, and what becomes of an event in it.

Each service has one durable queue, which is bound to the topic exchange with the patterns of all its handlers. A worker that
takes an event from it runs `celeriac.event`, which adds a message for each handler whose pattern fits. They are published in
the commit that acknowledges the event, so that none is lost; and one that is published twice, after a crash between the two
where they are two steps, has the same task id.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac._core import topic_matches
from celeriac.app import emitted, send
from celeriac.app.emitted import Event
from celeriac.exceptions import ImproperlyConfigured, QueueNotFound, Reject

if TYPE_CHECKING:
    from celeriac._core import Publication
    from celeriac.app.base import Celery
    from celeriac.app.task import Task

__all__ = ["Handlers", "bind", "decorator", "service_queue", "worker_topics"]

logger = logging.getLogger("celeriac.events")

_ANY = "#"
#: An event that no handler wants is looked at again so often, ever later: while a new version is rolled out, workers of the
#: old one get events that only the new one handles.
_LOOKS = 12
_LONGEST_WAIT = 60
_DEFAULTS = {"acks_late": True, "reject_on_worker_lost": True, "acks_on_failure": False}


class Handler(NamedTuple):
    """A task, and the events that it is run for."""

    patterns: tuple[str, ...]
    task: Task[..., Any]
    #: Names a queue of its own.
    routed: bool


class Handlers:
    """The handlers of an app."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._all: list[Handler] = []
        # By type of event; emptied when there is another handler.
        self._known: dict[str, list[Handler]] = {}
        app._task_from_fun(
            _dispatch, name=emitted.TASK, bind=True, acks_late=True, reject_on_worker_lost=True, ignore_result=True
        )

    def add(self, handler: Handler) -> None:
        """One more."""
        self._all.append(handler)
        self._known.clear()

    @property
    def patterns(self) -> list[str]:
        """All that the service wants, each once."""
        return sorted({pattern for handler in self._all for pattern in handler.patterns})

    def of(self, type: str) -> list[Handler]:
        """Those that want events of a type."""
        found = self._known.get(type)
        if found is None:
            found = [
                handler for handler in self._all if any(topic_matches(pattern, type) for pattern in handler.patterns)
            ]
            if len(self._known) >= 1000:
                # Types may be made of anything.
                self._known.clear()
            self._known[type] = found
        return found

    def compose(self, handler: Handler, event: Event) -> send.Message:
        """The message of a handler's run."""
        app, task = self._app, handler.task
        options: dict[str, Any] = {"task_id": event.task_id(task), "serializer": "json"}
        if not handler.routed and not app.router._lookup(task.name, (event,), {}, options, task):
            options["queue"] = service_queue(app)
        return send.compose(app, task.name, (event,), {}, task, options)

    def run_eagerly(self, event: Event) -> None:
        """Runs all that want it here; what the first of them raises is raised when all have run."""
        self._app.finalize(auto=True)
        errors = []
        for handler in self.of(event["type"]):
            try:
                handler.task.apply((event,), task_id=event.task_id(handler.task))
            except Exception as exc:
                errors.append(exc)
        if errors:
            raise errors[0]


def decorator(
    app: Celery, patterns: tuple[str, ...], name: str | None, queue: str | None, options: dict[str, Any]
) -> Callable[[Callable[..., Any]], Task[..., Any]]:
    """What `on_event` gives."""
    wanted = read_patterns(patterns)
    if not wanted:
        raise TypeError('on_event() needs the types of events: @app.on_event("order.*")')
    routed = bool(queue or options.get("exchange"))

    def decorate(fun: Callable[..., Any]) -> Task[..., Any]:
        given = {**_DEFAULTS, **options}
        if queue is not None:
            given["queue"] = queue
        task = app._task_from_fun(_with_event(fun, bool(given.get("bind"))), name=name, **given)
        if app._handlers is None:
            app._handlers = Handlers(app)
        app._handlers.add(Handler(wanted, task, routed))
        return task

    return decorate


def read_patterns(patterns: Iterable[Any]) -> tuple[str, ...]:
    """Patterns as brokers have them.

    Raises:
        ValueError: One is not of the form.
    """
    found = []
    for pattern in patterns:
        if callable(pattern):
            raise TypeError('on_event() needs the types of events: @app.on_event("order.*")')
        emitted.check_words(pattern, "a pattern of events", "* # **")
        found.append(".".join(_ANY if word == "**" else word for word in pattern.split(".")))
    return tuple(found)


def _with_event(fun: Callable[..., Any], bound: bool) -> Callable[..., Any]:
    """The function, given an `Event` where the message has a mapping."""
    if inspect.iscoroutinefunction(fun):

        @functools.wraps(fun)
        async def run(*args: Any, **kwargs: Any) -> Any:
            return await fun(*_opened(args, bound), **kwargs)

    else:

        @functools.wraps(fun)
        def run(*args: Any, **kwargs: Any) -> Any:
            return fun(*_opened(args, bound), **kwargs)

    return run


def _opened(args: tuple[Any, ...], bound: bool) -> tuple[Any, ...]:
    place = 1 if bound else 0
    if len(args) > place and type(args[place]) is dict:
        return (*args[:place], Event(args[place]), *args[place + 1 :])
    return args


def _dispatch(self: Task[..., Any], envelope: dict[str, Any]) -> int:
    """Adds a message for each handler that wants this event; gives how many."""
    app, event = self.app, Event(envelope)
    handlers = app._handlers
    found = handlers.of(str(event.get("type"))) if handlers is not None else []
    if handlers is None or not found:
        _look_again(self, event)
        return 0
    _follow(self, [handlers.compose(handler, event) for handler in found])
    return len(found)


def _look_again(task: Task[..., Any], event: Event) -> None:
    """No handler here wants this event.

    Raises:
        Reject: Nor did one for long: it is kept as a dead letter.
    """
    app, request = task.app, task.request
    looks = (request.retries or 0) + 1
    if looks > _LOOKS:
        raise Reject(f"no handler of service {service_name(app)!r} wants {event!r}", requeue=False)
    wait = min(2 ** (looks - 1), _LONGEST_WAIT)
    logger.warning("No handler of service %r wants %r: looked at again in %d seconds", service_name(app), event, wait)
    options = {"task_id": request.id, "retries": looks, "countdown": wait, "queue": service_queue(app)}
    _follow(task, [send.compose(app, task.name, (event,), {}, task, {**options, "serializer": "json"})])


def _follow(task: Task[..., Any], messages: list[send.Message]) -> None:
    """Hands messages to the outcome of the request that runs here: they are sent with its acknowledgement."""
    request = task.request
    if request.called_directly:
        for message in messages:
            send.publish(task.app, message, {})
        return
    follow_ups: list[Publication] = request._follow_ups if request._follow_ups is not None else []
    request._follow_ups = follow_ups
    for message in messages:
        follow_ups.append(message.publication)
        send._published(message)


# -- the queue of a service


def service_name(app: Celery) -> str:
    """What the service is called.

    Raises:
        ImproperlyConfigured: Nobody has named it.
    """
    name = app.conf.event_service or app.main
    if not name or name == "__main__":
        raise ImproperlyConfigured(
            'handlers of events need the name of their service: Celery("shop"), or the setting event_service'
        )
    if not all(letter.isalnum() or letter in "-_." for letter in name):
        raise ImproperlyConfigured(f"the name of a service is letters, digits, '-', '_' and '.', not {name!r}")
    return str(name)


def service_queue(app: Celery) -> str:
    """The queue of the service's events, known to the app's routes."""
    name, queues = f"{emitted.EXCHANGE}.{service_name(app)}", app.router.queues
    if name not in queues:
        try:
            queues[name]
        except QueueNotFound:
            # `task_create_missing_queues` is about queues that somebody may have misspelt.
            from celeriac.entities import Exchange, Queue

            queues.add(Queue(name, Exchange(name), name))
    return name


def bind(app: Celery) -> list[str]:
    """Binds the queue of the service; gives its patterns."""
    app.finalize(auto=True)
    patterns = app._handlers.patterns if app._handlers is not None else []
    app.client.bind_topics(emitted.EXCHANGE, service_queue(app), patterns)
    return patterns


def worker_topics(
    app: Celery, consumed: list[str], named: Iterable[str] | None, excluded: Iterable[str]
) -> tuple[str, str, list[str]] | None:
    """What a worker binds before it consumes; adds the queue of the service to those that it consumes, if it is to.

    Args:
        app: The app.
        consumed: Its queues; may be added to.
        named: Those of `-Q`, if any.
        excluded: Those of `-X`.
    """
    handlers = app._handlers
    if handlers is None:
        return None
    wants = app.conf.event_service_consume
    queue = service_queue(app)
    if queue not in consumed and (not named if wants is None else wants) and queue not in set(excluded):
        consumed.append(queue)
    return (emitted.EXCHANGE, queue, handlers.patterns) if queue in consumed else None
