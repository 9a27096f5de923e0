"""`app.control`: commands to workers, and questions."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from celeriac._core import Publication
from celeriac.entities import as_exchange, as_queue
from celeriac.exceptions import DuplicateNodenameWarning, ImproperlyConfigured
from celeriac.serialization import json
from celeriac.utils import uuid

if TYPE_CHECKING:
    from celeriac._core import Listener
    from celeriac.app.base import Celery
    from celeriac.entities import Exchange, Queue

__all__ = ["Control", "Inspect", "flatten_reply"]

#: A worker that connects later than this does not see the command any more.
_SECONDS_TO_LIVE = 60.0
_TERM = "SIGTERM"

#: Node names, in the order in which they answered, and what each said.
Replies = list[dict[str, Any]]


def flatten_reply(reply: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Replies of nodes as one dict; warns when two nodes of one name have answered."""
    nodes: dict[str, Any] = {}
    twice: set[str] = set()
    for one in reply:
        twice.update(name for name in one if name in nodes)
        nodes.update(one)
    if twice:
        warnings.warn(
            DuplicateNodenameWarning(
                f"Received more than one reply from {', '.join(sorted(twice))}: give each worker a name of its own (-n)."
            ),
            stacklevel=3,
        )
    return nodes


def _matches(node: str, pattern: str, matcher: str | None) -> bool:
    return re.match(pattern, node) is not None if matcher == "pcre" else fnmatch(node, pattern)


class Inspect:
    """Questions to workers. Each method gives `{node: answer}`, or None when nobody answered.

    Args:
        destination: Node names; all workers unless given. With one text, methods give the answer of that node alone.
        timeout: Seconds to wait for replies, counted anew with each.
        callback: Called with each reply as it comes: `{node: answer}`.
        connection: Accepted for compatibility.
        app: Whose workers.
        limit: Replies that are enough; the number of destinations unless given.
        pattern: Node names that match it.
        matcher: `glob` or `pcre`.
    """

    app: Celery

    def __init__(
        self,
        destination: Iterable[str] | str | None = None,
        timeout: float = 1.0,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        connection: Any = None,
        app: Celery | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        if app is not None:
            self.app = app
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.connection = connection
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def _prepare(self, reply: Replies | None) -> Any:
        if not reply:
            return None
        by_node = flatten_reply(reply)
        if isinstance(self.destination, str):
            return by_node.get(self.destination)
        if self.pattern:
            return {node: one for node, one in by_node.items() if _matches(node, self.pattern, self.matcher)}
        return by_node

    def _request(self, command: str, **kwargs: Any) -> Any:
        destination = [self.destination] if isinstance(self.destination, str) else self.destination
        return self._prepare(
            self.app.control.broadcast(
                command,
                arguments=kwargs,
                destination=destination,
                callback=self.callback,
                limit=self.limit,
                timeout=self.timeout,
                reply=True,
                pattern=self.pattern,
                matcher=self.matcher,
            )
        )

    def report(self) -> Any:
        """What each worker would put into a bug report: `{"ok": text}`."""
        return self._request("report")

    def clock(self) -> Any:
        """Logical clocks: `{"clock": number}`."""
        return self._request("clock")

    def active(self, safe: bool | None = None) -> Any:
        """Tasks that run now.

        Args:
            safe: Show arguments as texts, as whoever sent them described them.
        """
        return self._request("active", safe=safe)

    def scheduled(self, safe: bool | None = None) -> Any:
        """Tasks that wait in the worker for their ETA. Far ETAs wait in the broker, and are not among them."""
        return self._request("scheduled")

    def paused(self) -> Any:
        """Queues of each worker that are paused."""
        return self._request("paused")

    def dead_letters(self) -> Any:
        """Dead letters as each worker knows them: `count` and `oldest_age` (seconds) of all, `buried_here` of its own."""
        return self._request("dead_letters")

    def reserved(self, safe: bool | None = None) -> Any:
        """Tasks that a worker has taken and not begun."""
        return self._request("reserved")

    def stats(self) -> Any:
        """Counters, pool, connection and use of resources."""
        return self._request("stats")

    def limits(self) -> Any:
        """What runs and waits under limits of all workers: `{limit: {key: {"running", "waiting", "in_line"}}}`; the first two
        in that worker, the last over all."""
        return self._request("limits")

    def revoked(self) -> Any:
        """Ids of revoked tasks."""
        return self._request("revoked")

    def registered(self, *taskinfoitems: str) -> Any:
        """Names of registered tasks, with these attributes where a task has them."""
        return self._request("registered", taskinfoitems=taskinfoitems)

    registered_tasks = registered

    def ping(self, destination: Iterable[str] | None = None) -> Any:
        """Who is there: `{"ok": "pong"}`."""
        if destination:
            self.destination = destination
        return self._request("ping")

    def active_queues(self) -> Any:
        """Queues that workers consume from, as kombu describes queues."""
        return self._request("active_queues")

    def query_task(self, *ids: Any) -> Any:
        """What workers know of tasks: `{id: [state, info]}`; also called with one list of ids."""
        if len(ids) == 1 and isinstance(ids[0], (list, tuple)):
            ids = tuple(ids[0])
        return self._request("query_task", ids=ids)

    def conf(self, with_defaults: bool = False) -> Any:
        """Settings, without secrets."""
        return self._request("conf", with_defaults=with_defaults)

    def hello(self, from_node: str, revoked: Iterable[str] | None = None) -> Any:
        """What workers ask each other when they start."""
        return self._request("hello", from_node=from_node, revoked=None if revoked is None else list(revoked))

    def memsample(self) -> Any:
        """Resident memory of the worker's own process."""
        return self._request("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """For Celery's workers."""
        return self._request("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:
        """For Celery's workers."""
        return self._request("objgraph", num=n, max_depth=max_depth, type=type)


class Control:
    """Commands to all workers, or to some.

    Methods take what `broadcast` takes besides: `reply=True` waits for answers and gives them.

    Args:
        app: Whose broker.

    Raises:
        ImproperlyConfigured: `control_queue_durable` and `control_queue_exclusive` contradict each other.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        if app.conf.control_queue_durable and app.conf.control_queue_exclusive:
            raise ImproperlyConfigured(
                "control_queue_durable and control_queue_exclusive cannot both be on: an exclusive queue goes with its "
                "connection"
            )

    @property
    def inspect(self) -> type[Inspect]:
        """`Inspect` for this app."""
        return type("Inspect", (Inspect,), {"app": self.app})

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Iterable[str] | str | None = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float | None = 1.0,
        limit: int | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra_kwargs: Any,
    ) -> Replies | None:
        """Sends a command.

        Args:
            command: Its name.
            arguments: Its arguments; unknown keywords are added to them.
            destination: A list of node names; all workers unless given.
            connection: Accepted for compatibility, as is channel.
            reply: Wait for answers.
            timeout: Seconds to wait for the next reply; None waits until `limit` have come.
            limit: Replies that are enough; the number of destinations unless given.
            callback: Called with each reply as it comes.
            channel: Accepted for compatibility.
            pattern: Node names that match it, if there is a matcher too.
            matcher: `glob` or `pcre`. Workers of celeriac know `glob`.
            **extra_kwargs: More arguments of the command.

        Returns:
            What each node has answered, `[{node: answer}, ...]`; None without `reply`.

        Raises:
            ValueError: The destination is not a list of names.
            OperationalError: The broker cannot be reached.
        """
        if destination is not None and not isinstance(destination, (list, tuple)):
            raise ValueError(f"destination must be a list/tuple not {type(destination)}")
        by_pattern = bool(pattern and matcher)
        exchange = f"{self.app.conf.control_exchange}.pidbox"
        body: dict[str, Any] = {
            "method": command,
            "arguments": {**(arguments or {}), **extra_kwargs},
            "destination": None if destination is None else list(destination),
            "pattern": pattern if by_pattern else None,
            "matcher": matcher if by_pattern else None,
        }
        if not reply:
            self._send(exchange, body, timeout)
            return None
        ticket, key = uuid(), uuid()
        body |= {"ticket": ticket, "reply_to": {"exchange": f"reply.{exchange}", "routing_key": key}}
        # There before the question is asked: no answer is missed.
        inbox = self.app.client.inbox(f"reply.{exchange}", key)
        try:
            self._send(exchange, body, timeout)
            enough = limit or (len(destination) if destination else None)
            return self._collect(inbox, ticket, enough, timeout, callback)
        finally:
            inbox.close()

    def _send(self, exchange: str, body: dict[str, Any], timeout: float | None) -> None:
        properties = {
            "content_type": json.CONTENT_TYPE,
            "content_encoding": json.CONTENT_ENCODING,
            "delivery_mode": 2,
            "priority": 0,
        }
        headers = {"clock": self.app.clock.forward(), "expires": time.time() + timeout if timeout else 0}
        publication = Publication(headers, properties, json.dumps(body), exchange=exchange, routing_key="")
        self.app.client.broadcast(exchange, publication, _SECONDS_TO_LIVE)

    def _collect(
        self,
        inbox: Listener,
        ticket: str,
        limit: int | None,
        timeout: float | None,
        callback: Callable[[dict[str, Any]], Any] | None,
    ) -> Replies:
        """Replies to one question: until there are enough, or nobody has answered for the time."""
        replies: Replies = []
        until = None if timeout is None else time.monotonic() + timeout
        while limit is None or len(replies) < limit:
            found = inbox.receive(None if until is None else max(until - time.monotonic(), 0.0))
            if found is None:
                break
            headers, _, body = found
            self.app.clock.adjust(headers.get("clock") or 0)
            expires = headers.get("expires")
            if headers.get("ticket", ticket) != ticket or (expires and time.time() > expires):
                continue
            reply = json.loads(body)
            if callback is not None:
                callback(reply)
            replies.append(reply)
            until = None if timeout is None else time.monotonic() + timeout
        return replies

    async def abroadcast(self, command: str, *args: Any, **kwargs: Any) -> Replies | None:
        """`broadcast` for coroutines: a thread waits."""
        import asyncio

        return await asyncio.to_thread(self.broadcast, command, *args, **kwargs)

    async def aping(self, destination: Iterable[str] | None = None, timeout: float = 1.0, **kwargs: Any) -> Replies:
        """`ping` for coroutines: a thread waits."""
        import asyncio

        return await asyncio.to_thread(self.ping, destination, timeout, **kwargs)

    def ping(self, destination: Iterable[str] | None = None, timeout: float = 1.0, **kwargs: Any) -> Replies:
        """Asks who is there: `[{node: {"ok": "pong"}}, ...]`."""
        return (
            self.broadcast("ping", reply=True, arguments={}, destination=destination, timeout=timeout, **kwargs) or []
        )

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Iterable[str] | None = None,
        terminate: bool = False,
        signal: str | int | None = _TERM,
        **kwargs: Any,
    ) -> Replies | None:
        """Asks workers not to run a task, or several.

        Args:
            task_id: One id, or a list of them.
            destination: Node names; all workers unless given.
            terminate: End the process that runs it already.
            signal: By which signal.
            **kwargs: As for `broadcast`.
        """
        ids = task_id if isinstance(task_id, str) else [str(item) for item in task_id]
        arguments = {"task_id": ids, "terminate": terminate, "signal": signal or _TERM}
        return self.broadcast("revoke", arguments, destination=destination, **kwargs)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: Iterable[str] | None = None,
        terminate: bool = False,
        signal: str | int | None = _TERM,
        **kwargs: Any,
    ) -> Replies | None:
        """Asks workers not to run tasks with these stamps.

        Args:
            headers: Stamped headers, each with a stamp or a list of them.
            destination: Node names; all workers unless given.
            terminate: End processes that run such tasks already.
            signal: By which signal.
            **kwargs: As for `broadcast`.
        """
        arguments = {"headers": dict(headers), "terminate": terminate, "signal": signal or _TERM}
        return self.broadcast("revoke_by_stamped_headers", arguments, destination=destination, **kwargs)

    def terminate(
        self,
        task_id: str | Iterable[str],
        destination: Iterable[str] | None = None,
        signal: str | int | None = _TERM,
        **kwargs: Any,
    ) -> Replies | None:
        """Ends the process that runs a task, and revokes it."""
        return self.revoke(task_id, destination=destination, terminate=True, signal=signal, **kwargs)

    def rate_limit(
        self, task_name: str, rate_limit: str | float, destination: Iterable[str] | None = None, **kwargs: Any
    ) -> Replies | None:
        """Sets how often tasks of a name may start in each worker: tasks a second, or `N/s`, `N/m`, `N/h`; 0 is no limit."""
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", arguments, destination=destination, **kwargs)

    def limit(
        self,
        task_name: str,
        global_rate_limit: str | float | None = None,
        max_concurrency: int | None = None,
        destination: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> Replies | None:
        """Changes the limit that tasks of a name have over all workers, until these are started anew; None leaves a part of it as
        it is, 0 takes it away. All workers are to be told: each asks for turns by the limit that it knows."""
        arguments = {
            "task_name": task_name,
            "global_rate_limit": global_rate_limit,
            "max_concurrency": max_concurrency,
        }
        return self.broadcast("limit", arguments, destination=destination, **kwargs)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> Replies | None:
        """Sets the time limits, in seconds, of tasks of a name that begin from now on; None is no limit."""
        arguments = {"task_name": task_name, "hard": hard, "soft": soft}
        return self.broadcast("time_limit", arguments, destination=destination, **kwargs)

    def add_consumer(
        self,
        queue: str | Queue,
        exchange: str | Exchange | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> Replies | None:
        """Lets workers consume from one more queue.

        Args:
            queue: Its name; or itself, then the rest is found in it.
            exchange: Where it is bound, by name or itself; an exchange of the queue's name unless given.
            exchange_type: What kind of exchange that is.
            routing_key: With which key; its name unless given.
            options: More of the queue: `durable`, `auto_delete`, `queue_arguments`, `max_priority`, ...
            destination: Node names; all workers unless given.
            **kwargs: As for `broadcast`.
        """
        if not isinstance(queue, str):
            return self._add_consumer_of(as_queue(queue), options, destination, **kwargs)
        if exchange is not None and not isinstance(exchange, str):
            bound = as_exchange(exchange)
            exchange, exchange_type = bound.name, bound.type
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast("add_consumer", arguments, destination=destination, **kwargs)

    def _add_consumer_of(
        self, queue: Queue, options: Mapping[str, Any] | None, destination: Iterable[str] | None, **kwargs: Any
    ) -> Replies | None:
        said = queue.declaration()
        own = {name: said[name] for name in ("durable", "exclusive", "auto_delete", "no_declare")}
        arguments = {
            "queue": queue.name,
            "exchange": queue.exchange.name or None,
            "exchange_type": queue.exchange.type,
            "routing_key": queue.routing_key or None,
            **own,
            "queue_arguments": said["arguments"],
            **(options or {}),
        }
        return self.broadcast("add_consumer", arguments, destination=destination, **kwargs)

    def cancel_consumer(
        self, queue: str | Queue, destination: Iterable[str] | None = None, **kwargs: Any
    ) -> Replies | None:
        """Lets workers no longer consume from a queue, given by name or itself. What they have taken from it they run."""
        name = getattr(queue, "name", queue)
        return self.broadcast("cancel_consumer", {"queue": name}, destination=destination, **kwargs)

    def pause_queue(self, queue: str | Queue, **kwargs: Any) -> Replies | None:
        """Lets no worker take tasks from a queue any more, until `resume_queue`: also none that starts later.

        What runs goes on; what was taken and has not begun goes back. Tasks can be sent to the queue all the time. It is
        kept in the broker first, and then told to the workers that run, as a command: workers of Celery do not know it.

        Args:
            queue: Its name, or itself.
            **kwargs: As for `broadcast`.
        """
        return self._pause(queue, True, **kwargs)

    def resume_queue(self, queue: str | Queue, **kwargs: Any) -> Replies | None:
        """Lets workers take tasks from a paused queue again."""
        return self._pause(queue, False, **kwargs)

    def _pause(self, queue: str | Queue, pause: bool, **kwargs: Any) -> Replies | None:
        name = queue if isinstance(queue, str) else queue.name
        self.app.client.set_paused(name, pause)
        return self.broadcast("pause_queue" if pause else "resume_queue", {"queue": name}, **kwargs)

    def enable_events(self, destination: Iterable[str] | None = None, **kwargs: Any) -> Replies | None:
        """Lets workers send events of tasks."""
        return self.broadcast("enable_events", {}, destination=destination, **kwargs)

    def disable_events(self, destination: Iterable[str] | None = None, **kwargs: Any) -> Replies | None:
        """Lets workers send no events of tasks."""
        return self.broadcast("disable_events", {}, destination=destination, **kwargs)

    def heartbeat(self, destination: Iterable[str] | None = None, **kwargs: Any) -> Replies | None:
        """Lets workers send a heartbeat now."""
        return self.broadcast("heartbeat", {}, destination=destination, **kwargs)

    def pool_grow(self, n: int = 1, destination: Iterable[str] | None = None, **kwargs: Any) -> Replies | None:
        """Adds slots to the pools of workers."""
        return self.broadcast("pool_grow", {"n": n}, destination=destination, **kwargs)

    def pool_shrink(self, n: int = 1, destination: Iterable[str] | None = None, **kwargs: Any) -> Replies | None:
        """Takes slots away from the pools of workers."""
        return self.broadcast("pool_shrink", {"n": n}, destination=destination, **kwargs)

    def pool_restart(
        self,
        modules: Iterable[str] | None = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> Replies | None:
        """Replaces the processes of pools, with `reload` by such that import the app anew. Needs `worker_pool_restarts`.

        Args:
            modules: Modules that are to be imported anew; the whole app is, if there are any.
            reload: Import anew.
            reloader: Accepted for compatibility.
            destination: Node names; all workers unless given.
            **kwargs: As for `broadcast`.
        """
        arguments = {"modules": None if modules is None else list(modules), "reload": reload, "reloader": reloader}
        return self.broadcast("pool_restart", arguments, destination=destination, **kwargs)

    def autoscale(self, max: int, min: int, destination: Iterable[str] | None = None, **kwargs: Any) -> Replies | None:
        """Sets the bounds of workers that scale themselves."""
        return self.broadcast("autoscale", {"max": max, "min": min}, destination=destination, **kwargs)

    def shutdown(self, destination: Iterable[str] | None = None, **kwargs: Any) -> Replies | None:
        """Stops workers, warm. They do not answer."""
        return self.broadcast("shutdown", {}, destination=destination, **kwargs)

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> None:
        """Lets Celery's workers elect one of them. Workers of celeriac do not take part."""
        self.broadcast("election", {"id": id, "topic": topic, "action": action})

    def purge(self, connection: Any = None) -> int:
        """Removes all waiting messages from the queues of the settings; gives how many."""
        names = {queue.name for queue in self.app.router.queues.values()}
        return sum(self.app.client.purge(name) for name in sorted(names))

    discard_all = purge
