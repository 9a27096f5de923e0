"""The request as a bound task sees it: `self.request`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celeriac._core import ChordPart, Publication
    from celeriac.app.checkpoints import Checkpoints
    from celeriac.app.progress import Meter

#: Headers of RabbitMQ's dead lettering, and of redeliveries: they tell of one delivery, not of the task.
DELIVERY_HEADERS = frozenset({"x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason"})


class Context:
    """What is known of the call that runs: message headers, and what the worker adds.

    A worker makes it of the headers' dict; every header is an attribute, and so are custom ones.
    """

    _children: list[Any] | None = None
    _protected = False
    #: Another task has taken over the id, and what follows it.
    _replaced = False
    #: Where messages of this request go instead of being sent; None sends them at once. The child that runs
    #: the request puts a list here and hands it to the supervisor, which commits it with the outcome.
    _follow_ups: list[Publication] | None = None
    #: Parts of chords that end with this request, for the supervisor to count; made by the child that runs it.
    _parts: list[ChordPart] | None = None
    #: The queue it came from, where that queue has defaults.
    _queue: str | None = None
    #: What it has kept to go on from, if it has asked for that; the child that runs it looks after it.
    _checkpoints: Checkpoints | None = None
    #: The number of the request in its child, for `update_state`.
    _tag: int | None = None
    #: What the request has told of its progress; made by the first `progress`.
    _meter: Meter | None = None

    args: Any = None
    argsrepr: str | None = None
    callbacks: Any = None
    called_directly = True
    chain: Any = None
    chord: Any = None
    compression: str | None = None
    correlation_id: str | None = None
    delivery_info: dict[str, Any] | None = None
    errbacks: Any = None
    eta: str | None = None
    expires: Any = None
    group: str | None = None
    group_index: int | None = None
    hostname: str | None = None
    id: str | None = None
    ignore_result: bool | None = False
    is_eager = False
    kwargs: Any = None
    kwargsrepr: str | None = None
    lang: str | None = None
    logfile: str | None = None
    loglevel: int | None = None
    origin: str | None = None
    parent_id: str | None = None
    properties: dict[str, Any] | None = None
    redelivered: bool | None = None
    replaced_task_nesting = 0
    reply_to: str | None = None
    retries = 0
    root_id: str | None = None
    shadow: str | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    task: str | None = None
    taskset: str | None = None
    timelimit: Any = None
    utc: bool | None = None

    def __init__(self, *args: Mapping[str, Any], **kwargs: Any) -> None:
        fields = self.__dict__
        for mapping in args:
            fields.update(mapping)
        if kwargs:
            fields.update(kwargs)
        # A custom header of this name would hide the property.
        fields.pop("headers", None)

    @property
    def headers(self) -> dict[str, Any]:
        """The custom headers."""
        cls = Context
        return {
            name: value
            for name, value in self.__dict__.items()
            if name[:1] != "_" and name not in cls.__dict__ and name not in DELIVERY_HEADERS
        }

    @property
    def children(self) -> list[Any]:
        """Results of the tasks that this one has sent."""
        if self._children is None:
            self._children = []
        return self._children

    @property
    def time_limit(self) -> float | None:
        """The hard limit in seconds."""
        return self.timelimit[0] if self.timelimit else None

    @property
    def soft_time_limit(self) -> float | None:
        """The soft limit in seconds."""
        return self.timelimit[1] if self.timelimit else None

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Sets attributes."""
        self.__dict__.update(*args, **kwargs)

    def clear(self) -> None:
        """Forgets everything."""
        self.__dict__.clear()

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute, or a default."""
        return getattr(self, key, default)

    def as_execution_options(self) -> dict[str, Any]:
        """Options of `apply_async` that send this very call again."""
        options: dict[str, Any] = {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": self.soft_time_limit,
            "time_limit": self.time_limit,
            "headers": self.headers,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
            "ignore_result": self.ignore_result,
        }
        if self.stamps:
            options["stamped_headers"] = self.stamped_headers
            options.update(self.stamps)
        return options

    def way_back(self, queue: str | None = None) -> dict[str, Any]:
        """Options that send a message to where this one came from, or to another queue."""
        delivery = self.delivery_info or {}
        exchange, routing_key = delivery.get("exchange"), delivery.get("routing_key")
        options: dict[str, Any] = {}
        if delivery.get("priority") is not None:
            options["priority"] = delivery["priority"]
        if queue:
            options["queue"] = queue
        elif exchange and routing_key:
            options.update(exchange=exchange, routing_key=routing_key)
        elif routing_key:
            options["queue"] = routing_key
        return options

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __repr__(self) -> str:
        return f"<Context: {self.__dict__!r}>"


#: The request that is being ended without its task: what is sent meanwhile follows from it.
concluded: ContextVar[Context | None] = ContextVar("celeriac_concluded", default=None)


class RequestStack:
    """The requests of one task that run here, innermost last; each thread and coroutine has its own."""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        #: Workers, which run many, set it themselves.
        self.requests: ContextVar[tuple[Context, ...]] = ContextVar("celeriac_requests", default=())

    def push(self, request: Context) -> None:
        """A request begins."""
        self.requests.set((*self.requests.get(), request))

    def pop(self) -> Context | None:
        """The innermost one ends."""
        stack = self.requests.get()
        if not stack:
            return None
        self.requests.set(stack[:-1])
        return stack[-1]

    @property
    def top(self) -> Context | None:
        """The innermost one."""
        stack = self.requests.get()
        return stack[-1] if stack else None

    def __len__(self) -> int:
        return len(self.requests.get())
