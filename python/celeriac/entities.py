"""Queues, exchanges and bindings, declared as with kombu; kombu's own objects are read as well.

Example:
    >>> task_queues = [
    ...     Queue("images", Exchange("media", type="topic"), routing_key="image.#", max_priority=10),
    ...     Broadcast("reload"),
    ... ]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from celeriac.utils import uuid

__all__ = ["Broadcast", "Exchange", "Queue", "as_binding", "as_exchange", "as_queue", "binding", "is_broadcast"]

#: Attribute -> queue argument, and what it is multiplied with: AMQP counts in milliseconds.
_ARGUMENTS = {
    "expires": ("x-expires", 1000),
    "message_ttl": ("x-message-ttl", 1000),
    "max_length": ("x-max-length", 1),
    "max_length_bytes": ("x-max-length-bytes", 1),
    "max_priority": ("x-max-priority", 1),
}
_COPIED = ("queue_arguments", "binding_arguments", "consumer_arguments", "alias", "defaults")
_TRANSIENT = {"transient": 1, "persistent": 2}


class Exchange:
    """An exchange. The empty name is AMQP's default exchange, which routes by the queue's name."""

    def __init__(
        self,
        name: str = "",
        type: str = "",
        channel: Any = None,
        *,
        durable: bool = True,
        auto_delete: bool = False,
        passive: bool = False,
        delivery_mode: int | str | None = None,
        arguments: Mapping[str, Any] | None = None,
        no_declare: bool = False,
        **_: Any,
    ) -> None:
        """Declares nothing yet; `channel` and other keywords of kombu's are accepted and ignored."""
        self.name = name or ""
        #: `direct`, `topic`, `fanout` or `headers`.
        self.type = type or "direct"
        self.durable = durable
        self.auto_delete = auto_delete
        self.passive = passive
        self.delivery_mode = delivery_mode
        self.arguments = dict(arguments or {})
        self.no_declare = no_declare

    def declaration(self) -> dict[str, Any]:
        """As the engine reads it."""
        mode = self.delivery_mode
        return {
            "name": self.name,
            "type": self.type,
            "durable": self.durable is not False,
            "auto_delete": bool(self.auto_delete),
            "no_declare": bool(self.no_declare or self.passive),
            "delivery_mode": _TRANSIENT.get(mode, mode) if isinstance(mode, str) else mode,
            "arguments": dict(self.arguments),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exchange) and self.declaration() == other.declaration()

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return f"Exchange {self.name}({self.type})"

    def __repr__(self) -> str:
        return f"<{self}>"


class binding:
    """One more binding of a queue."""

    def __init__(
        self,
        exchange: Exchange | str | None = None,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        unbind_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.exchange = as_exchange(exchange)
        self.routing_key = routing_key or ""
        self.arguments = dict(arguments or {})
        self.unbind_arguments = dict(unbind_arguments or {})

    def declaration(self) -> dict[str, Any]:
        """As the engine reads it."""
        return {
            "exchange": self.exchange.declaration(),
            "routing_key": self.routing_key,
            "arguments": dict(self.arguments),
        }

    def __repr__(self) -> str:
        return f"<binding: {self.exchange.name} -> {self.routing_key}>"


class Queue:
    """A queue, the exchange it is bound to, and with which key."""

    def __init__(
        self,
        name: str = "",
        exchange: Exchange | str | Iterable[binding] | None = None,
        routing_key: str = "",
        channel: Any = None,
        bindings: Iterable[binding] | None = None,
        on_declared: Any = None,
        *,
        queue_arguments: Mapping[str, Any] | None = None,
        binding_arguments: Mapping[str, Any] | None = None,
        consumer_arguments: Mapping[str, Any] | None = None,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        no_ack: bool = False,
        no_declare: bool = False,
        alias: str | None = None,
        expires: float | None = None,
        message_ttl: float | None = None,
        max_length: int | None = None,
        max_length_bytes: int | None = None,
        max_priority: int | None = None,
        defaults: Any = None,
        **_: Any,
    ) -> None:
        """Declares nothing yet.

        Args:
            name: Its name.
            exchange: Where it is bound; several bindings may be given instead.
            routing_key: With which key or pattern.
            channel: Accepted for compatibility.
            bindings: More bindings; the queue is then bound by these.
            on_declared: Accepted for compatibility.
            queue_arguments: `x-max-priority`, `x-queue-type`, `x-dead-letter-exchange` and so on.
            binding_arguments: Of the binding to `exchange`.
            consumer_arguments: `x-priority` and so on.
            durable: It survives a restart of the broker.
            exclusive: Of one connection alone; it goes with it.
            auto_delete: It goes with its last consumer.
            no_ack: Accepted for compatibility: workers acknowledge.
            no_declare: It is expected to be there.
            alias: Another name to route by.
            expires: Seconds that it lasts unused.
            message_ttl: Seconds that a message may wait in it.
            max_length: Messages at the most.
            max_length_bytes: Bytes at the most.
            max_priority: Highest priority.
            defaults: What holds for the tasks of this queue: `celeriac.QueueDefaults`, or a mapping of its names.
            **_: Other keywords of kombu's, ignored.
        """
        self.name = name or ""
        several = _bindings(bindings)
        if exchange is not None and not isinstance(exchange, str) and isinstance(exchange, (list, tuple, set)):
            several += _bindings(exchange)
            exchange = None
        self.exchange = Exchange() if several else as_exchange(exchange)
        self.routing_key = routing_key or ""
        self.bindings = several
        self.queue_arguments = dict(queue_arguments or {})
        self.binding_arguments = dict(binding_arguments or {})
        self.consumer_arguments = dict(consumer_arguments or {})
        self.durable = durable
        self.exclusive = exclusive
        self.auto_delete = auto_delete or exclusive
        self.no_ack = no_ack
        self.no_declare = no_declare
        self.alias = alias
        self.expires = expires
        self.message_ttl = message_ttl
        self.max_length = max_length
        self.max_length_bytes = max_length_bytes
        self.max_priority = max_priority
        self.defaults = defaults

    @classmethod
    def from_dict(cls, queue: str, **options: Any) -> Queue:
        """A queue of an entry of `task_queues` that is a mapping."""
        get = options.get
        exchange = get("exchange")
        if exchange is None or isinstance(exchange, str):
            exchange = Exchange(
                exchange or "",
                get("exchange_type") or "",
                durable=_first(get("exchange_durable"), get("durable"), True),
                auto_delete=_first(get("exchange_auto_delete"), get("auto_delete"), False),
                delivery_mode=get("delivery_mode"),
                arguments=get("exchange_arguments"),
            )
        taken = {"name", "exchange", "routing_key", "durable", "auto_delete"}
        return cls(
            queue,
            exchange,
            get("routing_key") or get("binding_key") or queue,
            durable=_first(get("queue_durable"), get("durable"), True),
            auto_delete=_first(get("queue_auto_delete"), get("auto_delete"), False),
            **{key: value for key, value in options.items() if key not in taken},
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of its declaration."""
        found = dict(self.queue_arguments)
        for attribute, (name, factor) in _ARGUMENTS.items():
            value = getattr(self, attribute)
            if value is not None:
                found[name] = int(value * factor)
        return found

    def declaration(self) -> dict[str, Any]:
        """As the engine reads it."""
        return {
            "name": self.name,
            "exchange": self.exchange.declaration(),
            "routing_key": self.routing_key,
            "bindings": [one.declaration() for one in self.bindings],
            "durable": self.durable is not False,
            "exclusive": bool(self.exclusive),
            "auto_delete": bool(self.auto_delete),
            "no_declare": bool(self.no_declare),
            "arguments": self.arguments,
            "binding_arguments": dict(self.binding_arguments),
            "consumer_arguments": dict(self.consumer_arguments),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queue) and self.declaration() == other.declaration() and self.alias == other.alias

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} -> {self.exchange} -> {self.routing_key}>"


class Broadcast(Queue):
    """A queue of each worker's own on a fanout exchange: every worker gets every message.

    Messages are sent to it by its name, or as `queue=` of a route; only workers that run then receive them.
    """

    def __init__(
        self,
        name: str | None = None,
        queue: str | None = None,
        unique: bool = False,
        auto_delete: bool = True,
        exchange: Exchange | str | None = None,
        alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        """As kombu's.

        Args:
            name: The exchange's name, and the one to route by.
            queue: Name of the queue; one that nobody else has unless given.
            unique: Make a given name unique too.
            auto_delete: The queue goes with its worker.
            exchange: Another exchange.
            alias: Another name to route by.
            **kwargs: As for `Queue`.
        """
        own = f"{queue or 'bcast'}.{uuid()}" if unique or not queue else queue
        super().__init__(
            own,
            Exchange(name or "", "fanout") if exchange is None else exchange,
            alias=alias or name,
            auto_delete=auto_delete,
            **kwargs,
        )


def as_exchange(given: Any) -> Exchange:
    """An exchange of ours: from a name, from nothing, or from an object like kombu's."""
    if isinstance(given, Exchange):
        return given
    if given is None or isinstance(given, str):
        return Exchange(given or "")
    get = _reader(given)
    return Exchange(
        get("name") or "",
        get("type") or "",
        durable=_first(get("durable"), True),
        auto_delete=bool(get("auto_delete")),
        passive=bool(get("passive")),
        delivery_mode=get("delivery_mode"),
        arguments=get("arguments"),
        no_declare=bool(get("no_declare")),
    )


def as_binding(given: Any) -> binding:
    """A binding of ours: itself, or what an object like kombu's says."""
    if isinstance(given, binding):
        return given
    get = _reader(given)
    return binding(as_exchange(get("exchange")), get("routing_key") or "", get("arguments"), get("unbind_arguments"))


def as_queue(given: Any) -> Queue:
    """A queue of ours that may be changed: a copy, or what an object like kombu's says."""
    get = _reader(given)
    options: dict[str, Any] = {name: get(name) for name in (*_COPIED, *_ARGUMENTS)}
    for name in ("exclusive", "auto_delete", "no_ack", "no_declare"):
        options[name] = bool(get(name))
    durable = _first(get("durable"), True)
    found = Queue(get("name") or "", as_exchange(get("exchange")), get("routing_key") or "", durable=durable, **options)
    found.bindings = _bindings(get("bindings"))
    if is_broadcast(given):
        found.__class__ = Broadcast
    return found


def _bindings(given: Iterable[Any] | None) -> list[binding]:
    found = [as_binding(one) for one in given or ()]
    if isinstance(given, (set, frozenset)):
        # kombu keeps a set: what is declared must not depend on its order.
        found.sort(key=lambda one: (one.exchange.name, one.routing_key))
    return found


def is_broadcast(queue: Any) -> bool:
    """Whether it is a `Broadcast`, ours or kombu's."""
    return any(base.__name__ == "Broadcast" for base in type(queue).__mro__)


def _reader(given: Any) -> Any:
    return lambda name: getattr(given, name, None)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
