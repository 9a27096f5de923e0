"""`AsyncResult`: the result of a task that was sent."""

from __future__ import annotations

import builtins
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from celeriac import states
from celeriac._state import assert_will_not_block, get_current_app
from celeriac.exceptions import IncompleteStream, TimeoutError
from celeriac.result.arrivals import TIMED_OUT, each_as_it_ends, each_as_it_ends_later
from celeriac.result.base import (
    ResultBase,
    ancestors,
    client_of,
    forget,
    leaves,
    raise_first,
    raise_if_failed,
    refresh,
    refresh_later,
)
from celeriac.result.record import read_record

if TYPE_CHECKING:
    from datetime import datetime

    from celeriac._core import Client, ResultRecord
    from celeriac.app.base import Celery
    from celeriac.result.stream import TaskState
    from celeriac.utils.graph import DependencyGraph

__all__ = ["AsyncResult"]

R_co = TypeVar("R_co", covariant=True)


class AsyncResult(ResultBase, Generic[R_co]):
    """Follows a task by its id.

    `await result` waits in a coroutine without blocking its loop.

    Args:
        id: The task's id.
        backend: Accepted for compatibility.
        task_name: The task's name.
        app: Whose result backend to read.
        parent: The result of the task before it in a chain.
    """

    TimeoutError = TimeoutError
    id: str
    #: The call was not sent, or took the place of one that was: this is the result of an earlier call of the same key.
    deduplicated = False
    #: Whether it is read from a result backend.
    _stored = True

    def __init__(
        self,
        id: str,
        backend: Any = None,
        task_name: str | None = None,
        app: Celery | None = None,
        parent: ResultBase | None = None,
    ) -> None:
        if id is None:
            raise ValueError("AsyncResult requires valid id, not None")
        self.id = id
        self.task_name = task_name
        self.parent: Any = parent
        self.ignored = False
        self._app = app
        # The document of a final state; nothing overwrites what was read once.
        self._cache: dict[str, Any] | None = None

    @property
    def app(self) -> Celery:
        """Whose result backend it is read from."""
        if self._app is None:
            self._app = get_current_app()
        return self._app

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.id

    # -- waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R_co:
        """Waits for the task and gives what it returned.

        Args:
            timeout: Seconds; None waits for ever.
            propagate: Raise what the task raised; otherwise it is returned.
            interval: How often `on_interval` is called; waiting itself does not poll.
            no_ack: Accepted for compatibility.
            follow_parents: Raise at once when a task before it in its chain has failed or was revoked.
            callback: Called with id and value.
            on_message: Called with the stored document.
            on_interval: Called now and then while waiting.
            disable_sync_subtasks: Refuse to wait inside a task.

        Raises:
            TimeoutError: It did not end in time.
            NotImplementedError: Results are off.
        """
        if self.ignored:
            return cast("R_co", None)
        if disable_sync_subtasks:
            assert_will_not_block()
        follows = self if propagate and follow_parents and self.parent is not None else None
        if self._cache is None:
            if follows is None and on_interval is None and timeout != 0:
                self._keep(_wait(self._client(), self.id, timeout))
            else:
                for _ in each_as_it_ends(self.app, [self], follows, timeout, interval, on_interval):
                    pass
        elif follows is not None and self._cache["status"] in states.PROPAGATE_STATES:
            parents = ancestors(self)
            refresh(parents, self.app)
            raise_first(parents)
        return self._conclude(propagate, callback, on_message)

    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        follow_parents: bool = True,
    ) -> R_co:
        """`get` for coroutines."""
        if self.ignored:
            return cast("R_co", None)
        follows = self if propagate and follow_parents and self.parent is not None else None
        if self._cache is None:
            if follows is None:
                self._keep(await _wait_later(self._client(), self.id, timeout))
            else:
                async for _ in each_as_it_ends_later(self.app, [self], follows, timeout):
                    pass
        elif follows is not None and self._cache["status"] in states.PROPAGATE_STATES:
            parents = ancestors(self)
            await refresh_later(parents, self.app)
            raise_first(parents)
        return self._conclude(propagate, callback, None)

    def stream(self, timeout: float | None = None) -> Iterator[TaskState]:
        """Its states from now to the last one, each as it comes: `(state, info, ready)`.

        Woken by the result backend, not by asking again and again. States that are overwritten while you deal with one
        are skipped; the last never is.

        Args:
            timeout: Seconds until the end of the task; None waits for ever.

        Raises:
            TimeoutError: It did not end in time.
            NotImplementedError: Results are off.

        Example:
            >>> for now in result.stream(timeout=60):
            ...     print(now.state, now.info)
        """
        from celeriac.result.stream import states_of

        assert_will_not_block()
        return states_of(self.app, self.id, timeout)

    def astream(self, timeout: float | None = None) -> AsyncIterator[TaskState]:
        """`stream` for coroutines: `async for now in result.astream()`."""
        from celeriac.result.stream import states_of_later

        return states_of_later(self.app, self.id, timeout)

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.aget().__await__()

    def _conclude(
        self,
        propagate: bool,
        callback: Callable[[str, Any], Any] | None,
        on_message: Callable[[dict[str, Any]], Any] | None,
    ) -> R_co:
        document = self._document()
        # Read, so that a record which names no task is refused here as it is by Celery.
        task_id = document["task_id"]
        if on_message is not None:
            on_message(document)
        if propagate:
            raise_if_failed(document)
        value = document["result"]
        if callback is not None:
            callback(task_id, value)
        return cast("R_co", value)

    # -- reading

    def _client(self) -> Client:
        return client_of(self.app)

    @property
    def backend(self) -> Any:
        """The app's result backend."""
        app: Any = self.app
        return app.backend

    @property
    def supports_native_join(self) -> bool:
        """Whether many are waited for at once: by every result backend."""
        return True

    def _document(self) -> dict[str, Any]:
        if self._cache is not None:
            return self._cache
        return self._keep(self._client().read([self.id])[0])

    def _keep(self, record: ResultRecord | None) -> dict[str, Any]:
        document = read_record(self.app, record)
        if document["status"] in states.READY_STATES:
            self._cache = document
        return document

    @property
    def state(self) -> str:
        """PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED, or a state of the task's own."""
        return cast("str", self._document()["status"])

    status = state

    @property
    def result(self) -> Any:
        """What the task returned or raised, or the meta of its own state."""
        return self._document()["result"]

    info = result

    @property
    def traceback(self) -> str | None:
        """Where it failed."""
        return self._document().get("traceback")

    @property
    def children(self) -> list[Any] | None:
        """Results of the tasks and groups that it has sent; None while it has no record."""
        from celeriac.result.rebuild import result_from_tuple

        children = self._document().get("children")
        return None if children is None else [result_from_tuple(child, self.app) for child in children]

    @property
    def date_done(self) -> datetime | None:
        """When it ended."""
        from celeriac.utils.time import maybe_iso8601

        return maybe_iso8601(self._document().get("date_done"))

    @property
    def name(self) -> str | None:
        """The task's name; from the backend with `result_extended`."""
        return self._document().get("name") or self.task_name

    @property
    def args(self) -> Any:
        """Positional arguments, with `result_extended`."""
        return self._document().get("args")

    @property
    def kwargs(self) -> Any:
        """Keyword arguments, with `result_extended`."""
        return self._document().get("kwargs")

    @property
    def worker(self) -> str | None:
        """The worker that ran it, with `result_extended`."""
        return self._document().get("worker")

    @property
    def retries(self) -> int | None:
        """How often it was tried again, with `result_extended`."""
        return self._document().get("retries")

    @property
    def queue(self) -> str | None:
        """The queue it came through, with `result_extended`."""
        return self._document().get("queue")

    def ready(self) -> bool:
        """Whether it has ended."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether it has returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether it has raised."""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Whether anything is stored for it."""
        return self._client().read([self.id])[0] is not None

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """Raises what the task raised, if it has failed; else gives the result."""
        document = self._document()
        if propagate:
            raise_if_failed(document)
        value = document["result"]
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def throw(self, *args: Any, **kwargs: Any) -> Any:
        """Raises an exception given here."""
        raise args[0] if args else RuntimeError("nothing to throw")

    # -- changing

    def forget(self) -> None:
        """Removes the stored result, and those of the tasks before it in its chain."""
        forget([self], self.app)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Asks all workers not to run it.

        Args:
            connection: Accepted for compatibility.
            terminate: End the process that runs it already.
            signal: How: a signal's name; TERM unless given.
            wait: Wait for the answers of workers.
            timeout: How many seconds; one unless given.
        """
        how: dict[str, Any] = {"reply": True, "timeout": 1.0 if timeout is None else timeout} if wait else {}
        self.app.control.revoke(self.id, terminate=terminate, signal=signal, **how)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Asks all workers not to run tasks with these stamps. As `revoke` otherwise."""
        how: dict[str, Any] = {"reply": True, "timeout": 1.0 if timeout is None else timeout} if wait else {}
        self.app.control.revoke_by_stamped_headers(headers, terminate=terminate, signal=signal, **how)

    # -- graph and identity

    def as_tuple(self) -> tuple[Any, Any]:
        """`((id, parent), children)`, as it is stored."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), None

    def as_list(self) -> list[str]:
        """Its own id, and those before it."""
        return [self.id, *(leaf.id for parent in reversed(ancestors(self)) for leaf in leaves([parent]))]

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Pairs of (parent, result) down the children.

        Raises:
            IncompleteStream: One of them has not ended.
        """
        waiting: deque[tuple[Any, Any]] = deque([(None, self)])
        while waiting:
            parent, node = waiting.popleft()
            yield parent, node
            if node.ready():
                waiting.extend((node, child) for child in node.children or ())
            elif not intermediate:
                raise IncompleteStream

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Pairs of (result, value) down the children, waiting for each."""
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**kwargs)

    def get_leaf(self) -> Any:
        """The value of the last result down the children."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    @property
    def graph(self) -> DependencyGraph[Any]:
        """The tasks that it led to, as a graph.

        Raises:
            IncompleteStream: One of them has not ended: see `build_graph`.
        """
        return self.build_graph()

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> DependencyGraph[Any]:
        """The tasks that it led to.

        Args:
            intermediate: Take what is there, also if some have not ended.
            formatter: How it is written in the DOT language.
        """
        from celeriac.utils.graph import DependencyGraph, GraphFormatter

        graph: DependencyGraph[Any] = DependencyGraph(formatter=formatter or GraphFormatter(root=self.id, shape="oval"))
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent is not None:
                graph.add_edge(parent, node)
        return graph

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return other.id == self.id
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __copy__(self) -> AsyncResult[R_co]:
        return type(self)(self.id, None, self.task_name, self._app, self.parent)

    def __reduce__(self) -> Any:
        return AsyncResult, (self.id, None, self.task_name, None, self.parent)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"


def _wait(client: Client, task_id: str, timeout: float | None) -> ResultRecord:
    try:
        return client.wait([task_id], timeout)[0]
    except builtins.TimeoutError as exc:
        raise TimeoutError(TIMED_OUT) from exc


async def _wait_later(client: Client, task_id: str, timeout: float | None) -> ResultRecord:
    from celeriac.result import _aio

    try:
        records: list[ResultRecord] = await _aio.call(partial(client.wait_later, [task_id], timeout))
    except builtins.TimeoutError as exc:
        raise TimeoutError(TIMED_OUT) from exc
    return records[0]
