"""Where a task goes: `task_routes` and `task_queues`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac.entities import Exchange, Queue, as_exchange, as_queue, is_broadcast
from celeriac.exceptions import ImproperlyConfigured, QueueNotFound
from celeriac.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from celeriac.app.settings import Settings
    from celeriac.queues import QueueDefaults

__all__ = ["MapRoute", "Queues", "Router", "Target"]

_DIRECT = "direct"
_QUEUE_TYPES = ("classic", "quorum")
_MAX_PRIORITY = "x-max-priority"


class Target(NamedTuple):
    """Where one message goes, and the options that its route gave."""

    exchange: str
    routing_key: str
    queue: Queue | None
    options: dict[str, Any]
    #: What is declared before sending, if the engine does not know it from the app's topology.
    declare: dict[str, Any] | None = None


class Queues(dict[str, Queue]):
    """The queues of an app, by name; missing ones are made when the settings allow it."""

    def __init__(self, conf: Settings, before: Queues | None = None) -> None:
        """Reads the settings.

        Args:
            conf: The settings.
            before: The queues under older settings: what was added and selected by hand stays.
        """
        super().__init__()
        self._conf = conf
        self.default_name: str = getattr(conf.task_default_queue, "name", conf.task_default_queue)
        exchange = conf.task_default_exchange
        self.default_exchange = (
            Exchange(exchange or self.default_name, conf.task_default_exchange_type)
            if exchange is None or isinstance(exchange, str)
            else as_exchange(exchange)
        )
        self._default_key: str = conf.task_default_routing_key or self.default_name
        #: Other names of queues.
        self.aliases: dict[str, Queue] = {}
        self._selected: list[str] | None = before._selected if before else None
        self._excluded: set[str] = before._excluded if before else set()
        # The engine may have been told of the topology before these were there.
        self._added: dict[str, Queue] = {}
        configured = conf.task_queues
        if not configured:
            self._put(self._default_queue())
        else:
            items = configured.items() if isinstance(configured, Mapping) else ((None, item) for item in configured)
            for name, item in items:
                self._put(self._read(name, item))
        for queue in before._added.values() if before else ():
            self.add(queue)
        #: What holds for the tasks of a queue; empty where nobody has said anything.
        self.defaults: dict[str, QueueDefaults] = self._defaults(conf.task_queue_defaults)

    def add(self, queue: Any, **options: Any) -> Queue:
        """Adds a queue: one of ours, one like kombu's, or a name with options."""
        made = Queue.from_dict(queue, **options) if isinstance(queue, str) else as_queue(queue)
        self._added[made.name] = made
        return self._put(made)

    def select(self, include: Iterable[str] | str | None) -> None:
        """Workers consume from these queues only.

        Raises:
            QueueNotFound: One is not configured, and missing ones are not made.
        """
        if include:
            names = [include] if isinstance(include, str) else include
            self._selected = list(dict.fromkeys(self[name].name for name in names))

    def deselect(self, exclude: Iterable[str] | str | None) -> None:
        """Workers do not consume from these queues."""
        for name in [exclude] if isinstance(exclude, str) else exclude or ():
            self._excluded.add(self.aliases[name].name if name in self.aliases else name)

    def select_add(self, queue: Any, **options: Any) -> Queue:
        """Adds a queue that workers consume from, whichever others are selected."""
        made = self.add(queue, **options)
        self._excluded.discard(made.name)
        if self._selected is not None and made.name not in self._selected:
            self._selected.append(made.name)
        return made

    @property
    def consume_from(self) -> dict[str, Queue]:
        """The queues that workers consume from."""
        names = list(self) if self._selected is None else self._selected
        return {name: self[name] for name in names if name not in self._excluded}

    def _defaults(self, setting: Mapping[str, Any] | None) -> dict[str, QueueDefaults]:
        """Those that queues have themselves, and those of the setting, which win."""
        found = {name: queue.defaults for name, queue in self.items() if queue.defaults is not None}
        if not found and not setting:
            return {}
        from celeriac.queues import read_defaults

        return {name: read_defaults(name, given) for name, given in {**found, **(setting or {})}.items()}

    def topology(self) -> dict[str, Any]:
        """What the engine must know of the queues."""
        conf = self._conf
        queues = {name: queue.declaration() for name, queue in self.items()}
        if self.default_name not in queues:
            queues[self.default_name] = self._complete(self._default_queue()).declaration()
        return {
            "queues": queues,
            "default_queue": self.default_name,
            "missing_queue_type": _queue_type(conf, "task_create_missing_queue_type"),
            "missing_exchange_type": conf.task_create_missing_queue_exchange_type or _DIRECT,
            "delayed_queue_type": _queue_type(conf, "broker_native_delayed_delivery_queue_type"),
            "max_priority": conf.task_queue_max_priority,
        }

    def knows(self, queue: Queue) -> bool:
        """Whether the engine declares this very queue by its name alone."""
        return self.get(queue.name) is queue and queue.name not in self._added

    def __getitem__(self, name: str) -> Queue:
        alias = self.aliases.get(name)
        return super().__getitem__(name) if alias is None else alias

    def __missing__(self, name: str) -> Queue:
        if name == self.default_name:
            return self._put(self._default_queue())
        conf = self._conf
        if not conf.task_create_missing_queues:
            raise QueueNotFound(f"Queue {name!r} missing from task_queues")
        exchange = Exchange(name, conf.task_create_missing_queue_exchange_type or _DIRECT)
        return self._put(Queue(name, exchange, name, queue_arguments=self._typed("task_create_missing_queue_type")))

    def _put(self, queue: Queue) -> Queue:
        self._complete(queue)
        self[queue.name] = queue
        if queue.alias:
            self.aliases[queue.alias] = queue
        return queue

    def _complete(self, queue: Queue) -> Queue:
        """Fills in what the queue leaves to the settings."""
        if not queue.exchange.name:
            queue.exchange = self.default_exchange
        queue.routing_key = queue.routing_key or self._default_key
        highest = self._conf.task_queue_max_priority
        if highest is not None:
            queue.queue_arguments.setdefault(_MAX_PRIORITY, highest)
        return queue

    def _default_queue(self) -> Queue:
        given = self._conf.task_default_queue
        if not isinstance(given, str):
            return as_queue(given)
        arguments = self._typed("task_default_queue_type")
        return Queue(self.default_name, self.default_exchange, self._default_key, queue_arguments=arguments)

    def _typed(self, setting: str) -> dict[str, Any] | None:
        kind = _queue_type(self._conf, setting)
        return None if kind == "classic" else {"x-queue-type": kind}

    def _read(self, name: str | None, item: Any) -> Queue:
        """A queue of `task_queues`: a mapping of options, a name, or an object like kombu's Queue."""
        if isinstance(item, str):
            return self[item]
        name = name or (item.get("name") if isinstance(item, Mapping) else getattr(item, "name", None))
        if not name:
            raise ImproperlyConfigured(f"a queue in task_queues has no name: {item!r}")
        return Queue.from_dict(name, **item) if isinstance(item, Mapping) else as_queue(item)


def _queue_type(conf: Settings, setting: str) -> str:
    kind: str = conf[setting] or "classic"
    if kind not in _QUEUE_TYPES:
        raise ImproperlyConfigured(f"{setting} must be classic or quorum, not {kind!r}")
    return kind


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

    def __init__(self, conf: Settings, before: Queues | None = None) -> None:
        """Reads the settings; `before` are the queues under older ones."""
        self.queues = Queues(conf, before)
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
        queue = self._queue(merged.get("queue") or self.queues.default_name)
        if self.queues.defaults and (defaults := self.queues.defaults.get(queue.name)) is not None:
            found = {**defaults.send_options, **found}
        exchange, key = merged.get("exchange"), merged.get("routing_key")
        exchange = getattr(exchange, "name", exchange)
        if exchange and key:
            place = exchange, key
        elif queue.exchange.type == _DIRECT:
            place = "", queue.name
        else:
            place = exchange or queue.exchange.name, key or queue.routing_key or self.default_routing_key
        return Target(*place, queue, found, self._declare(place, queue))

    def _queue(self, wanted: Any) -> Queue:
        """The queue that was named, or given as an object: then as the app has it, if it has it just so."""
        if isinstance(wanted, str):
            return self.queues[wanted]
        if not getattr(wanted, "name", None):
            raise ImproperlyConfigured(f"a message cannot be sent to the queue {wanted!r}: it has no name")
        own = self.queues.get(wanted.name)
        if own is not None and own == self.queues._complete(as_queue(wanted)):
            return own
        # What it leaves open stays open: it may be bound to nothing at all.
        return as_queue(wanted)

    def _declare(self, place: tuple[str, str], queue: Queue) -> dict[str, Any] | None:
        """What is declared before sending, unless the engine finds it by exchange and key."""
        if is_broadcast(queue):
            # Each worker declares its own; whoever sends needs to know the exchange.
            return {
                "name": queue.name,
                "no_declare": True,
                "exchange": {**queue.exchange.declaration(), "no_declare": True},
                "routing_key": queue.routing_key,
            }
        exchange, key = place
        found = key if exchange == "" else self.queues.default_name
        return None if found == queue.name and self.queues.knows(queue) else queue.declaration()

    def _lookup(self, name: str, args: Any, kwargs: Any, options: dict[str, Any], task: Any) -> dict[str, Any]:
        for router in self.routers:
            route = router(name, args, kwargs or {}, options, task=task)
            if route is not None:
                return dict(route) if isinstance(route, Mapping) else {"queue": route}
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
