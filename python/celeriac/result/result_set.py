"""`ResultSet` and `GroupResult`: the results of many tasks, waited for at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac._state import app_or_default, assert_will_not_block
from celeriac.result.arrivals import arrivals, arrivals_later
from celeriac.result.async_result import AsyncResult

if TYPE_CHECKING:
    from celeriac._core import Client
    from celeriac.app.base import Celery

__all__ = ["GroupResult", "ResultSet"]

_Callback = Callable[[str, Any], Any]


class ResultSet:
    """Several results, read from the backend of one app.

    `await result_set` gives what `get` gives; `async for task_id, value in result_set` gives values as they arrive.

    Args:
        results: Results of tasks, and of groups.
        app: Whose backend they are read from; that of the first result, unless given.
        ready_barrier: Accepted for compatibility.
    """

    def __init__(
        self, results: Iterable[Any] | None = None, app: Celery | None = None, ready_barrier: Any = None, **kwargs: Any
    ) -> None:
        self._app = app
        self.results: list[Any] = results if isinstance(results, list) else list(results or ())

    @property
    def app(self) -> Celery:
        """Whose backend they are read from."""
        if self._app is None:
            self._app = self.results[0].app if self.results else app_or_default()
        return self._app

    @app.setter
    def app(self, app: Celery) -> None:
        self._app = app

    # -- members

    def add(self, result: Any) -> None:
        """Adds a member, unless it is one."""
        if result not in self.results:
            self.results.append(result)

    def update(self, results: Iterable[Any]) -> None:
        """Adds those that are not members yet."""
        known = set(self.results)
        for result in results:
            if result not in known:
                known.add(result)
                self.results.append(result)

    def remove(self, result: Any) -> None:
        """Removes a member, given as a result or as its id.

        Raises:
            KeyError: It is none.
        """
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """Removes a member, if it is one."""
        if result in self.results:
            self.results.remove(result)

    def clear(self) -> None:
        """Removes all members."""
        self.results[:] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    # -- states

    def _client(self) -> Client:
        return AsyncResult("", app=self.app)._client()

    def _leaves(self) -> Iterator[Any]:
        """The results of single tasks, also those in groups within."""
        stack = [iter(self.results)]
        while stack:
            for result in stack[-1]:
                if isinstance(result, ResultSet):
                    stack.append(iter(result.results))
                    break
                yield result
            else:
                stack.pop()

    def _refresh(self) -> None:
        """Reads what is not known to be final, all of it in one round trip."""
        unknown = {leaf.id: leaf for leaf in self._leaves() if isinstance(leaf, AsyncResult) and leaf._cache is None}
        if not unknown:
            return
        ids = list(unknown)
        for task_id, record in zip(ids, self._client().read(ids), strict=True):
            unknown[task_id]._keep(record)

    def ready(self) -> bool:
        """Whether all have ended."""
        self._refresh()
        return all(_state(leaf) in states.READY_STATES for leaf in self._leaves())

    def waiting(self) -> bool:
        """Whether any has not ended."""
        return not self.ready()

    def successful(self) -> bool:
        """Whether all have returned."""
        self._refresh()
        return all(_state(leaf) == states.SUCCESS for leaf in self._leaves())

    def failed(self) -> bool:
        """Whether any has raised."""
        self._refresh()
        return any(_state(leaf) == states.FAILURE for leaf in self._leaves())

    def completed_count(self) -> int:
        """How many have returned; a group among the members counts as one."""
        self._refresh()
        return sum(
            all(
                _state(leaf) == states.SUCCESS
                for leaf in (result._leaves() if isinstance(result, ResultSet) else (result,))
            )
            for result in self.results
        )

    def maybe_throw(self, callback: _Callback | None = None, propagate: bool = True) -> None:
        """Raises what the first member that has failed raised."""
        self._refresh()
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    # -- waiting

    @property
    def supports_native_join(self) -> bool:
        """Whether all are waited for at once: always."""
        return True

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: _Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any] | None:
        """`join_native`."""
        return self.join_native(
            timeout, propagate, interval, callback, no_ack, on_message, on_interval, disable_sync_subtasks
        )

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: _Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any]:
        """Values in the order of the list; the first of the list that has failed raises."""
        if disable_sync_subtasks:
            assert_will_not_block()
        values: list[Any] = []
        for result in self.results:
            value = result.get(
                timeout=timeout,
                propagate=propagate,
                interval=interval,
                on_interval=on_interval,
                disable_sync_subtasks=disable_sync_subtasks,
            )
            if callback is not None:
                callback(result.id, value)
            else:
                values.append(value)
        return values

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Pairs of (id, stored document) in the order of arrival; of a group among the members (id, its results)."""
        leaves = {leaf.id: leaf for leaf in self._leaves()}
        yield from ((leaf.id, leaf._cache) for leaf in leaves.values() if leaf._cache is not None)
        missing = [leaf.id for leaf in leaves.values() if leaf._cache is None]
        for record in arrivals(self._client(), missing, timeout, interval, on_interval) if missing else ():
            document = leaves[record.task_id]._keep(record)
            if on_message is not None:
                on_message(document)
            yield record.task_id, document

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: _Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any] | None:
        """Values in the order of the list; the first that fails, in the order of arrival, raises."""
        if disable_sync_subtasks:
            assert_will_not_block()
        for task_id, document in self.iter_native(timeout, interval, no_ack, on_message, on_interval):
            _conclude(task_id, document, propagate, callback)
        return None if callback is not None else _values(self.results)

    async def aget(
        self, timeout: float | None = None, propagate: bool = True, callback: _Callback | None = None
    ) -> list[Any] | None:
        """`get` for coroutines."""
        async for task_id, document in self._arrive(timeout):
            _conclude(task_id, document, propagate, callback)
        return None if callback is not None else _values(self.results)

    async def _arrive(self, timeout: float | None) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        leaves = {leaf.id: leaf for leaf in self._leaves()}
        for leaf in leaves.values():
            if leaf._cache is not None:
                yield leaf.id, leaf._cache
        missing = [leaf.id for leaf in leaves.values() if leaf._cache is None]
        if missing:
            async for record in arrivals_later(self._client(), missing, timeout):
                yield record.task_id, leaves[record.task_id]._keep(record)

    def __await__(self) -> Generator[Any, None, list[Any] | None]:
        return self.aget().__await__()

    # -- changing

    def forget(self) -> None:
        """Removes the stored results."""
        for result in self.results:
            result.forget()

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Asks all workers not to run them, in one command. As `AsyncResult.revoke` otherwise."""
        how: dict[str, Any] = {"reply": True, "timeout": 1.0 if timeout is None else timeout} if wait else {}
        self.app.control.revoke([leaf.id for leaf in self._leaves()], terminate=terminate, signal=signal, **how)

    def then(self, callback: Callable[[Any], Any], on_error: Any = None, weak: bool = False) -> Any:
        """Waits for all and calls `callback` with this set, or `on_error` when one has failed."""
        self.get(propagate=False)
        if self.successful():
            return callback(self)
        return on_error(self) if on_error is not None else None

    def __eq__(self, other: object) -> bool:
        return other.results == self.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(result.id for result in self.results)}]>"


class GroupResult(ResultSet):
    """The results of a group, under the group's id.

    Args:
        id: The group's id.
        results: Its members'.
        parent: The result of what came before it in a chain.
        app: Whose backend they are read from.
    """

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] | None = None,
        parent: Any = None,
        app: Celery | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(results, app, **kwargs)
        self.id = id
        self.parent = parent

    @property
    def children(self) -> list[Any]:
        """Its members' results."""
        return self.results

    def as_tuple(self) -> tuple[Any, Any]:
        """`((id, parent), members)`, as it is stored."""
        parent = self.parent.as_tuple() if self.parent is not None else None
        return (self.id, parent), [result.as_tuple() for result in self.results]

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return (other.id, other.results, other.parent) == (self.id, self.results, self.parent)
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]  # a set of results has none, as in Celery
        return hash(self.id)

    def __reduce__(self) -> Any:
        return GroupResult, (self.id, self.results, self.parent)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(result.id for result in self.results)}]>"


def _state(leaf: Any) -> str:
    # After a refresh what is final is at hand; asking again would be a round trip each.
    document = (leaf._cache or {"status": states.PENDING}) if isinstance(leaf, AsyncResult) else {"status": leaf.state}
    return str(document["status"])


def _conclude(task_id: str, document: dict[str, Any], propagate: bool, callback: _Callback | None) -> None:
    value = document["result"]
    if propagate and document["status"] in states.PROPAGATE_STATES:
        raise value
    if callback is not None:
        callback(task_id, value)


def _values(results: list[Any]) -> list[Any]:
    return [_values(r.results) if isinstance(r, ResultSet) else r._cache["result"] for r in results]
