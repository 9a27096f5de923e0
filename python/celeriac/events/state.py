"""`State`: what a monitor knows of workers and tasks, from the events it has heard.

Its size is bounded: of tasks (and workers) it keeps the last ones. Events may come in another order than they
happened; a task's state is the strongest that was told of it, as `celeriac.states.precedence` says.
"""

from __future__ import annotations

import bisect
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar
from weakref import WeakSet, ref

from celeriac import states
from celeriac.utils.clocks import timetuple
from celeriac.utils.lru import LRUCache

__all__ = ["State", "Task", "Worker", "heartbeat_expires"]

logger = logging.getLogger("celery.events.state")

#: A worker is gone when its last heartbeat is older than this, in per cent of its interval.
HEARTBEAT_EXPIRE_WINDOW = 200
#: Seconds by which watches may differ before that is worth a warning.
HEARTBEAT_DRIFT_MAX = 16
#: Workers whose watches were warned of: once for each.
_MAX_WARNED = 1000
_warned: LRUCache[str, bool] = LRUCache(_MAX_WARNED)

TASK_EVENT_TO_STATE = {
    "sent": states.PENDING,
    "received": states.RECEIVED,
    "started": states.STARTED,
    "failed": states.FAILURE,
    "retried": states.RETRY,
    "succeeded": states.SUCCESS,
    "revoked": states.REVOKED,
    "rejected": states.REJECTED,
}


def heartbeat_expires(timestamp: float, freq: float = 60, expire_window: float = HEARTBEAT_EXPIRE_WINDOW) -> float:
    """When a worker counts as gone after a heartbeat.

    Args:
        timestamp: Of the heartbeat.
        freq: Seconds between its heartbeats.
        expire_window: Per cent of them that it may be late.
    """
    return float(timestamp) + float(freq) * expire_window / 100


class Worker:
    """One worker. What its events say becomes its attributes."""

    heartbeat_max = 4
    expire_window = HEARTBEAT_EXPIRE_WINDOW
    _fields = (
        "hostname",
        "pid",
        "freq",
        "heartbeats",
        "clock",
        "active",
        "processed",
        "loadavg",
        "sw_ident",
        "sw_ver",
        "sw_sys",
    )

    def __init__(
        self,
        hostname: str | None = None,
        pid: int | None = None,
        freq: float = 60,
        heartbeats: list[float] | None = None,
        clock: int = 0,
        active: int | None = None,
        processed: int | None = None,
        loadavg: Any = None,
        sw_ident: str | None = None,
        sw_ver: str | None = None,
        sw_sys: str | None = None,
    ) -> None:
        self.hostname = hostname
        self.pid = pid
        self.freq = freq
        #: When the last ones came, oldest first.
        self.heartbeats: list[float] = [] if heartbeats is None else heartbeats
        self.clock = clock or 0
        self.active = active
        self.processed = processed
        self.loadavg = loadavg
        self.sw_ident = sw_ident
        self.sw_ver = sw_ver
        self.sw_sys = sw_sys

    def event(
        self,
        type_: str | None,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
        max_drift: float = HEARTBEAT_DRIFT_MAX,
    ) -> None:
        """Takes in an event.

        Args:
            type_: Without its group: `heartbeat`.
            timestamp: When it was sent.
            local_received: When it came.
            fields: What it says.
            max_drift: Seconds by which the two may differ without a warning.
        """
        self.update(fields or {})
        if type_ == "offline":
            self.heartbeats.clear()
        elif timestamp and local_received:
            drift = abs(int(local_received) - int(timestamp))
            if drift > max_drift:
                self._warn_of_drift(drift, local_received, timestamp)
            if len(self.heartbeats) >= self.heartbeat_max:
                del self.heartbeats[0]
            bisect.insort(self.heartbeats, local_received)

    def _warn_of_drift(self, drift: float, local_received: float, timestamp: float) -> None:
        name = str(self.hostname)
        if name not in _warned:
            _warned[name] = True
            logger.warning(
                "Substantial drift from %s may mean clocks are out of sync.  Current drift is %s seconds.  "
                "[orig: %s recv: %s]",
                name,
                drift,
                datetime.fromtimestamp(local_received, UTC),
                datetime.fromtimestamp(timestamp, UTC),
            )

    def update(self, f: Mapping[str, Any], **kw: Any) -> None:
        """Sets attributes."""
        for name, value in {**f, **kw}.items():
            # A nonsense event must not replace a method or a property.
            if not hasattr(type(self), name):
                self.__dict__[name] = value

    @property
    def alive(self) -> bool:
        """Whether its last heartbeat is recent."""
        return bool(self.heartbeats) and time.time() < self.heartbeat_expires

    @property
    def heartbeat_expires(self) -> float:
        """When it counts as gone."""
        return heartbeat_expires(self.heartbeats[-1], self.freq, self.expire_window)

    @property
    def status_string(self) -> str:
        """ONLINE or OFFLINE."""
        return "ONLINE" if self.alive else "OFFLINE"

    @property
    def id(self) -> str:
        """Names it and its process."""
        return f"{self.hostname}.{self.pid}"

    def __eq__(self, other: object) -> bool:
        return self.hostname == other.hostname if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hostname)

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({self.status_string} clock:{self.clock})"

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, name) for name in self._fields)


class Task:
    """One task. What its events say becomes its attributes; `received`, `started` ... say when."""

    name: str | None = None
    received = sent = started = succeeded = failed = retried = revoked = rejected = None
    args = kwargs = eta = expires = retries = result = exception = timestamp = runtime = traceback = None
    worker: Worker | None = None
    exchange = routing_key = client = None
    root_id: str | None = None
    parent_id: str | None = None
    state: str = states.PENDING
    clock = 0

    _fields = (
        "uuid",
        "name",
        "state",
        "received",
        "sent",
        "started",
        "rejected",
        "succeeded",
        "failed",
        "retried",
        "revoked",
        "args",
        "kwargs",
        "eta",
        "expires",
        "retries",
        "worker",
        "result",
        "exception",
        "timestamp",
        "runtime",
        "traceback",
        "exchange",
        "routing_key",
        "clock",
        "client",
        "root",
        "root_id",
        "parent",
        "parent_id",
        "children",
    )
    #: What an event of that state still says when a later state is known already.
    merge_rules: ClassVar[dict[str, tuple[str, ...]]] = {
        states.RECEIVED: ("name", "args", "kwargs", "parent_id", "root_id", "retries", "eta", "expires"),
    }
    _info_fields = (
        "args",
        "kwargs",
        "retries",
        "result",
        "eta",
        "runtime",
        "expires",
        "exception",
        "exchange",
        "routing_key",
        "root_id",
        "parent_id",
    )

    def __init__(
        self,
        uuid: str | None = None,
        cluster_state: State | None = None,
        children: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.uuid = uuid
        self.cluster_state = cluster_state
        self.children: WeakSet[Task] = WeakSet()
        if cluster_state is not None:
            known = cluster_state.tasks
            self.children.update(known[child] for child in children or () if child in known)
        self.__dict__.update(kwargs)

    def event(
        self,
        type_: str,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: dict[str, Any] | None = None,
    ) -> None:
        """Takes in an event.

        Args:
            type_: Without its group: `received`.
            timestamp: When it was sent.
            local_received: When it came.
            fields: What it says.
        """
        known = TASK_EVENT_TO_STATE.get(type_)
        state = known or type_.upper()
        told = dict(fields or {})
        retries = states.RETRY in (state, self.state)
        if not retries and states.precedence(state) > states.precedence(self.state):
            keep = self.merge_rules.get(state)
            if keep is not None:
                told = {name: value for name, value in told.items() if name in keep}
        else:
            told.update(state=state, timestamp=timestamp)
        if known is not None:
            told = {type_: timestamp, **told}
        # A nonsense event must not replace a method or a property.
        self.__dict__.update((name, value) for name, value in told.items() if name not in _GUARDED)

    def info(self, fields: Iterable[str] | None = None, extra: Iterable[str] | None = None) -> dict[str, Any]:
        """What is known of it, for people.

        Args:
            fields: Which attributes; a usual choice unless given.
            extra: More of them.
        """
        names = (*(self._info_fields if fields is None else fields), *(extra or ()))
        found = {name: getattr(self, name, None) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """All that is known of it; other tasks by their ids."""
        shown = {"children": [child.id for child in self.children], "root": self.root_id, "parent": self.parent_id}
        return {name: shown[name] if name in shown else getattr(self, name) for name in self._fields}

    @property
    def id(self) -> str | None:
        """Its id."""
        return self.uuid

    @property
    def origin(self) -> Any:
        """Who told of it: its worker, else its client."""
        return self.client if self.worker is None else self.worker.id

    @property
    def ready(self) -> bool:
        """Whether it has ended."""
        return self.state in states.READY_STATES

    def _other(self, task_id: str | None) -> Task | None:
        if not task_id or self.cluster_state is None:
            return None
        return self.cluster_state.tasks.data.get(task_id)

    @cached_property
    def parent(self) -> Task | None:
        """The task that sent it, if that is known."""
        return self._other(self.parent_id)

    @cached_property
    def root(self) -> Task | None:
        """The first task of its workflow, if that is known."""
        return self._other(self.root_id)

    def __eq__(self, other: object) -> bool:
        return self.uuid == other.uuid if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __repr__(self) -> str:
        return f"<Task: {self.name}({self.uuid}) {self.state} clock:{self.clock}>"

    def __reduce__(self) -> Any:
        return _task, (type(self), self.as_dict())


_GUARDED = frozenset({"event", "info", "as_dict", "id", "origin", "ready", "cluster_state", "children", "merge_rules"})


def _task(cls: type[Task], fields: dict[str, Any]) -> Task:
    # Other tasks are found by their ids when they are asked for.
    return cls(**{name: value for name, value in fields.items() if name not in ("root", "parent")})


# `State` has attributes of these names, which hide the classes in the annotations below them.
AnyWorker = Worker
AnyTask = Task


class _Index(defaultdict[str, "WeakSet[Task]"]):
    """Tasks by a name; a call gives those of one name in order of time."""

    def __init__(self, ordered: Callable[..., Any]) -> None:
        super().__init__(WeakSet)
        self._ordered = ordered

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ordered(*args, **kwargs)


class State:
    """What is known of a cluster.

    Args:
        callback: Called with the state and each event.
        workers: Workers known so far.
        tasks: Tasks known so far.
        taskheap: Their events in order of time.
        max_workers_in_memory: Workers kept.
        max_tasks_in_memory: Tasks kept; the oldest are forgotten.
        on_node_join: Called with a worker that has come.
        on_node_leave: Called with a worker that has said goodbye.
        tasks_by_type: Ids of tasks by name, of another state.
        tasks_by_worker: Ids of tasks by worker, of another state.

    Example:
        >>> state = app.events.State()
        >>> receiver = app.events.Receiver(connection, handlers={"*": state.event})
    """

    app: Any = None
    Worker: Any = Worker
    Task: Any = Task
    event_count = 0
    task_count = 0
    heap_multiplier = 4

    def __init__(
        self,
        callback: Callable[[State, dict[str, Any]], Any] | None = None,
        workers: LRUCache[str, AnyWorker] | None = None,
        tasks: LRUCache[str, AnyTask] | None = None,
        taskheap: list[timetuple] | None = None,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10000,
        on_node_join: Callable[[AnyWorker], Any] | None = None,
        on_node_leave: Callable[[AnyWorker], Any] | None = None,
        tasks_by_type: Mapping[str, Iterable[str]] | None = None,
        tasks_by_worker: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self.event_callback = callback
        self.workers: LRUCache[str, AnyWorker] = LRUCache(max_workers_in_memory) if workers is None else workers
        self.tasks: LRUCache[str, AnyTask] = LRUCache(max_tasks_in_memory) if tasks is None else tasks
        self._taskheap: list[timetuple] = [] if taskheap is None else taskheap
        self.max_workers_in_memory = max_workers_in_memory
        self.max_tasks_in_memory = max_tasks_in_memory
        self.on_node_join = on_node_join
        self.on_node_leave = on_node_leave
        #: Group of events -> what is called with type and event, instead of what is done here.
        self.handlers: dict[str, Callable[[str, dict[str, Any]], Any]] = {}
        self._mutex = threading.Lock()
        self._seen_types: set[str] = set()
        #: Children that were told of before their parents.
        self._orphans: LRUCache[str, WeakSet[AnyTask]] = LRUCache(max_tasks_in_memory)
        self.rebuild_taskheap()
        self.tasks_by_type = self._index(self._tasks_by_type, tasks_by_type)
        self.tasks_by_worker = self._index(self._tasks_by_worker, tasks_by_worker)

    def _index(self, ordered: Callable[..., Any], known: Mapping[str, Iterable[str]] | None) -> _Index:
        index, data = _Index(ordered), self.tasks.data
        for name, ids in (known or {}).items():
            index[name].update(data[task_id] for task_id in ids if task_id in data)
        return index

    # -- taking in

    def event(self, event: dict[str, Any]) -> Any:
        """Takes in an event, as a receiver gives it. Gives what it is about, and the type without its group."""
        with self._mutex:
            return self._event(event)

    def _event(self, event: dict[str, Any]) -> Any:
        self.event_count += 1
        if self.event_callback is not None:
            self.event_callback(self, event)
        group, _, subject = event["type"].partition("-")
        handler = self.handlers.get(group)
        if handler is not None:
            return handler(subject, event), subject
        if group == "worker":
            found = self._of_worker(subject, event)
            return None if found is None else (found, subject)
        return (self._of_task(subject, event), subject) if group == "task" else None

    def _of_worker(self, subject: str, event: dict[str, Any]) -> tuple[AnyWorker, bool] | None:
        try:
            hostname, timestamp, received = event["hostname"], event["timestamp"], event["local_received"]
        except KeyError:
            return None
        leaves = subject == "offline"
        worker, created = self.workers.data.get(hostname), False
        if worker is None:
            worker = self.Worker(hostname)
            if not leaves:
                self.workers[hostname], created = worker, True
        worker.event(subject, timestamp, received, event)
        if self.on_node_join is not None and (created or subject == "online"):
            self.on_node_join(worker)
        if leaves and self.on_node_leave is not None:
            self.on_node_leave(worker)
            self.workers.pop(hostname, None)
        return worker, created

    def _of_task(self, subject: str, event: dict[str, Any]) -> tuple[AnyTask, bool]:
        uuid, hostname, timestamp = event["uuid"], event["hostname"], event["timestamp"]
        received, clock = event["local_received"], event["clock"]
        task, created = self.tasks.data.get(uuid), False
        if task is None:
            task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
            created = True
        if subject == "sent":
            # Told by a client, not by a worker.
            task.client = origin = hostname
        else:
            worker = self.workers.data.get(hostname)
            if worker is None:
                worker = self.workers[hostname] = self.Worker(hostname)
            task.worker, origin = worker, worker.id
            if received:
                # A worker that tells of tasks lives. By its own watch, as in Celery.
                worker.event(None, received, timestamp)
        self._remember(timetuple(clock, timestamp, origin, ref(task)))
        if subject == "received":
            self.task_count += 1
        task.event(subject, timestamp, received, event)
        if task.name is not None:
            self._seen_types.add(task.name)
            if created:
                self.tasks_by_type[task.name].add(task)
                self.tasks_by_worker[hostname].add(task)
        self._relate(task, uuid)
        return task, created

    def _remember(self, moment: timetuple) -> None:
        """Keeps an event's place in time; so many as tasks usually have."""
        heap = self._taskheap
        if len(heap) >= self.max_tasks_in_memory * self.heap_multiplier:
            del heap[0]
        # Most come in order: then this is one comparison.
        if not heap or moment > heap[-1]:
            heap.append(moment)
        else:
            bisect.insort(heap, moment)

    def _relate(self, task: AnyTask, uuid: str) -> None:
        if task.parent_id:
            try:
                parent = self.tasks[task.parent_id]
            except KeyError:
                if task.parent_id not in self._orphans.data:
                    self._orphans[task.parent_id] = WeakSet()
                self._orphans[task.parent_id].add(task)
            else:
                parent.children.add(task)
        children = self._orphans.data.pop(uuid, None)
        if children is not None:
            task.children.update(children)

    def task_event(self, type_: str, fields: Mapping[str, Any]) -> Any:
        """Takes in an event of a task, given without its group. Older than `event`."""
        return self._event({**fields, "type": f"task-{type_}"})[0]

    def worker_event(self, type_: str, fields: Mapping[str, Any]) -> Any:
        """Takes in an event of a worker, given without its group. Older than `event`."""
        return self._event({**fields, "type": f"worker-{type_}"})[0]

    def get_or_create_worker(self, hostname: str, **kwargs: Any) -> tuple[AnyWorker, bool]:
        """The worker of that name, and whether it is new; keywords become its attributes."""
        if hostname in self.workers.data:
            worker = self.workers[hostname]
            worker.update(kwargs)
            return worker, False
        worker = self.workers[hostname] = self.Worker(hostname, **kwargs)
        return worker, True

    def get_or_create_task(self, uuid: str) -> tuple[AnyTask, bool]:
        """The task of that id, and whether it is new."""
        if uuid in self.tasks.data:
            return self.tasks[uuid], False
        task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
        return task, True

    # -- looking

    def freeze_while(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls something while no event is taken in; with `clear_after=True`, forgets everything then."""
        clear_after = kwargs.pop("clear_after", False)
        with self._mutex:
            try:
                return fun(*args, **kwargs)
            finally:
                if clear_after:
                    self._clear()

    def itertasks(self, limit: int | None = None) -> Iterator[tuple[str, AnyTask]]:
        """Ids and tasks, oldest first."""
        return islice(iter(self.tasks.items()), limit or None)

    def tasks_by_time(self, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str | None, AnyTask]]:
        """Ids and tasks in order of their last events.

        Args:
            limit: Events to look at.
            reverse: Newest first.
        """
        seen = set()
        for moment in islice(list(reversed(self._taskheap) if reverse else self._taskheap), 0, limit):
            task = moment[3]()
            if task is not None and task.uuid not in seen:
                seen.add(task.uuid)
                yield task.uuid, task

    tasks_by_timestamp = tasks_by_time

    def _tasks_by_type(self, name: str, limit: int | None = None, reverse: bool = True) -> Iterator[Any]:
        return islice((pair for pair in self.tasks_by_time(reverse=reverse) if pair[1].name == name), 0, limit)

    def _tasks_by_worker(self, hostname: str, limit: int | None = None, reverse: bool = True) -> Iterator[Any]:
        def ran_there(task: Any) -> bool:
            return task.worker is not None and task.worker.hostname == hostname

        return islice((pair for pair in self.tasks_by_time(reverse=reverse) if ran_there(pair[1])), 0, limit)

    def task_types(self) -> list[str]:
        """Names of all tasks seen, sorted."""
        return sorted(self._seen_types)

    def alive_workers(self) -> Iterator[AnyWorker]:
        """Workers that seem to live."""
        return (worker for worker in self.workers.values() if worker.alive)

    # -- forgetting

    def clear_tasks(self, ready: bool = True) -> None:
        """Forgets tasks: those that have ended, or all."""
        with self._mutex:
            self._clear_tasks(ready)

    def clear(self, ready: bool = True) -> None:
        """Forgets workers and tasks; with `ready`, tasks that have not ended stay."""
        with self._mutex:
            self._clear(ready)

    def _clear(self, ready: bool = True) -> None:
        self.workers.clear()
        self._clear_tasks(ready)
        self.event_count = self.task_count = 0

    def _clear_tasks(self, ready: bool = True) -> None:
        kept = {task_id: task for task_id, task in self.tasks.items() if ready and not task.ready}
        self.tasks.data.clear()
        self.tasks.update(kept)
        self._taskheap.clear()

    def rebuild_taskheap(self) -> None:
        """Puts all tasks in order of time anew."""
        found = [timetuple(task.clock, task.timestamp or 0, task.origin, ref(task)) for task in self.tasks.values()]
        self._taskheap[:] = sorted(found)

    def __repr__(self) -> str:
        return f"<State: events={self.event_count} tasks={self.task_count}>"

    def __reduce__(self) -> Any:
        def ids(index: _Index) -> dict[str, list[Any]]:
            return {name: [task.id for task in tasks] for name, tasks in index.items()}

        return type(self), (
            self.event_callback,
            self.workers,
            self.tasks,
            None,
            self.max_workers_in_memory,
            self.max_tasks_in_memory,
            self.on_node_join,
            self.on_node_leave,
            ids(self.tasks_by_type),
            ids(self.tasks_by_worker),
        )
