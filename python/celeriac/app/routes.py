"""Where a task goes: `task_routes` and `task_queues`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac.exceptions import ImproperlyConfigured, QueueNotFound
from celeriac.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from celeriac.app.settings import Settings

__all__ = ["MapRoute", "Queue", "Queues", "Router", "Target"]

_DIRECT = "direct"


class Queue(NamedTuple):
    """A queue as messages are sent to it."""

    name: str
    exchange: str
    exchange_type: str = _DIRECT
    routing_key: str = ""
    arguments: dict[str, Any] | None = None
    alias: str | None = None


class Target(NamedTuple):
    """Where one message goes, and the options that its route gave."""

    exchange: str
    routing_key: str
    queue: Queue | None
    options: dict[str, Any]


class Queues(dict[str, Queue]):
    """The queues of an app, by name; missing ones are made when the settings allow it."""

    def __init__(self, conf: Settings) -> None:
        super().__init__()
        self._conf = conf
        self.default_name: str = conf.task_default_queue
        self._default_exchange: str = conf.task_default_exchange or self.default_name
        self._default_exchange_type: str = conf.task_default_exchange_type
        self._default_key: str = conf.task_default_routing_key or self.default_name
        configured = conf.task_queues
        if not configured:
            self.add(self._default_queue())
        else:
            items = configured.items() if isinstance(configured, Mapping) else ((None, item) for item in configured)
            for name, item in items:
                self.add(self._read(name, item))

    def add(self, queue: Queue) -> Queue:
        """Adds a queue, under its alias too."""
        self[queue.name] = queue
        if queue.alias:
            self[queue.alias] = queue
        return queue

    def __missing__(self, name: str) -> Queue:
        if name == self.default_name:
            return self.add(self._default_queue())
        conf = self._conf
        if not conf.task_create_missing_queues:
            raise QueueNotFound(f"Queue {name!r} missing from task_queues")
        quorum = conf.task_create_missing_queue_type == "quorum"
        return self.add(
            Queue(
                name,
                exchange=name,
                exchange_type=conf.task_create_missing_queue_exchange_type or _DIRECT,
                routing_key=name,
                arguments={"x-queue-type": "quorum"} if quorum else None,
            )
        )

    def _default_queue(self) -> Queue:
        quorum = self._conf.task_default_queue_type == "quorum"
        return Queue(
            self.default_name,
            exchange=self._default_exchange,
            exchange_type=self._default_exchange_type,
            routing_key=self._default_key,
            arguments={"x-queue-type": "quorum"} if quorum else None,
        )

    def _read(self, name: str | None, item: Any) -> Queue:
        """A queue of `task_queues`: a mapping of options, a name, or an object like kombu's Queue."""
        if isinstance(item, str):
            return self[item]
        get: Callable[..., Any] = item.get if isinstance(item, Mapping) else lambda key, _=None: getattr(item, key, _)
        name = name or get("name")
        if not name:
            raise ImproperlyConfigured(f"a queue in task_queues has no name: {item!r}")
        exchange = get("exchange")
        exchange_name = exchange if isinstance(exchange, str) else getattr(exchange, "name", None)
        exchange_type = get("exchange_type") or getattr(exchange, "type", None)
        key = get("routing_key") or get("binding_key")
        if not exchange_name:
            exchange_name = self._default_exchange
            exchange_type = exchange_type or self._default_exchange_type
        return Queue(
            name,
            exchange=exchange_name,
            exchange_type=exchange_type or _DIRECT,
            routing_key=key or self._default_key,
            arguments=get("queue_arguments"),
            alias=get("alias"),
        )


class MapRoute:
    """A router made of a mapping, or of pairs: exact names first, then patterns in order."""

    def __init__(self, routes: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> None:
        pairs = routes.items() if isinstance(routes, Mapping) else [(pattern, route) for pattern, route in routes]
        self.exact: dict[str, Any] = {}
        self.patterns: list[tuple[Any, Any]] = []
        for pattern, route in pairs:
            if hasattr(pattern, "match"):
                self.patterns.append((pattern, route))
            elif "*" in pattern:
                import re
                from fnmatch import translate

                self.patterns.append((re.compile(translate(pattern)), route))
            else:
                self.exact[pattern] = route

    def __call__(self, name: str, *_: Any, **__: Any) -> Any:
        route = self.exact.get(name)
        if route is not None:
            return route
        return next((route for pattern, route in self.patterns if pattern.match(name)), None)


class Router:
    """Finds the target of a message."""

    def __init__(self, conf: Settings) -> None:
        self.queues = Queues(conf)
        self.default_routing_key: str = conf.task_default_routing_key or self.queues.default_name
        self.routers = prepare(conf.task_routes)
        #: Whether a task's route depends on its name alone, so that it can be found once.
        self.static = all(isinstance(router, MapRoute) for router in self.routers)
        #: Targets of calls without options of their own, by task name; filled by senders, any of which may win.
        self.known: dict[str, Target] = {}

    def route(self, options: dict[str, Any], name: str, args: Any = (), kwargs: Any = None, task: Any = None) -> Target:
        """Merges the route's options under the given ones and resolves queue, exchange and routing key."""
        found = self._lookup(name, args, kwargs, options, task)
        merged = {**found, **{key: value for key, value in options.items() if value is not None}}
        wanted = merged.get("queue") or self.queues.default_name
        queue = wanted if isinstance(wanted, Queue) else self.queues[getattr(wanted, "name", wanted)]
        exchange, key = merged.get("exchange"), merged.get("routing_key")
        exchange = getattr(exchange, "name", exchange)
        if exchange and key:
            return Target(exchange, key, queue, found)
        if queue.exchange_type == _DIRECT:
            return Target("", queue.name, queue, found)
        return Target(exchange or queue.exchange, key or queue.routing_key or self.default_routing_key, queue, found)

    def _lookup(self, name: str, args: Any, kwargs: Any, options: dict[str, Any], task: Any) -> dict[str, Any]:
        for router in self.routers:
            route = router(name, args, kwargs or {}, options, task=task)
            if route is not None:
                return {"queue": route} if isinstance(route, (str, Queue)) else dict(route)
        return {}


def prepare(routes: Any) -> list[Callable[..., Any]]:
    """The routers of `task_routes`: one router, or a list or tuple of them."""
    if not routes:
        return []
    return [_router(route) for route in (routes if isinstance(routes, (list, tuple)) else [routes])]


def _router(route: Any) -> Callable[..., Any]:
    if isinstance(route, str):
        route = symbol_by_name(route)
        if isinstance(route, type):
            route = route()
    by_method = getattr(route, "route_for_task", None)
    if by_method is not None:

        def call(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> Any:
            return by_method(name, args, kwargs)

        return call
    if callable(route):
        return route  # type: ignore[no-any-return]
    return MapRoute(route)
