"""`ResultSet` and `GroupResult`: the results of many tasks, read and waited for at once."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar

from celeriac import states
from celeriac._state import app_or_default, assert_will_not_block
from celeriac.result.arrivals import each_as_it_ends, each_as_it_ends_later
from celeriac.result.base import ResultBase, ancestors, client_of, forget, leaves, refresh, state_of, value_of
from celeriac.result.tally import Tally

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["GroupResult", "ResultSet"]

S = TypeVar("S", bound="ResultSet")
_Callback = Callable[[str, Any], Any]
_OnMessage = Callable[[dict[str, Any]], Any]


class ResultSet(ResultBase):
    """Several results, read from the backend of one app.

    All of them are read in one round trip, and waited for with one watch of the engine, however many there are.
    `await result_set` gives what `get` gives; `async for result in result_set` gives members as they end.

    Args:
        results: Results of tasks, and of groups.
        app: Whose backend they are read from; that of the first result, unless given.
        ready_barrier: Accepted for compatibility.
    """

    # Of a class that is bound to an app: see `bound`.
    _app: Celery | None = None

    def __init__(
        self, results: Iterable[Any] | None = None, app: Celery | None = None, ready_barrier: Any = None, **kwargs: Any
    ) -> None:
        if app is not None:
            self._app = app
        self.results: list[Any] = results if isinstance(results, list) else list(results or ())
        # What makes members the same, for as long as nobody else changes the list: see `add`.
        self._known: set[Any] = set()

    @classmethod
    def bound(cls, app: Celery) -> type[Self]:
        """The same class for one app, which calls of the class then read from."""
        return type(cls.__name__, (cls,), {"_app": app, "__module__": cls.__module__, "__doc__": cls.__doc__})

    @property
    def app(self) -> Celery:
        """Whose backend they are read from."""
        if self._app is None:
            self._app = self.results[0].app if self.results else app_or_default()
        return self._app

    @app.setter
    def app(self, app: Celery) -> None:
        self._app = app

    @property
    def backend(self) -> Any:
        """The app's result backend."""
        app: Any = self.app
        return app.backend

    # -- members

    def _members(self) -> list[Any] | None:
        return self.results

    def add(self, result: Any) -> None:
        """Adds a member, unless it is one."""
        if len(self._known) != len(self.results):
            self._known = set(map(_identity, self.results))
        identity = _identity(result)
        # Looked for in the list only when it seems to be there, so that adding many takes linear time.
        if identity not in self._known or result not in self.results:
            self._known.add(identity)
            self.results.append(result)

    def update(self, results: Iterable[Any]) -> None:
        """Adds those that are not members yet."""
        for result in results:
            self.add(result)

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

    def ready(self) -> bool:
        """Whether all have ended."""
        return all(state in states.READY_STATES for state in self._states())

    def waiting(self) -> bool:
        """Whether any has not ended."""
        return not self.ready()

    def successful(self) -> bool:
        """Whether all have returned."""
        return all(state == states.SUCCESS for state in self._states())

    def failed(self) -> bool:
        """Whether any has raised."""
        return any(state == states.FAILURE for state in self._states())

    def completed_count(self) -> int:
        """How many have returned. A group among the members counts as one, when all of it has."""
        refresh(self.results, self.app)
        return sum(all(state_of(leaf) == states.SUCCESS for leaf in leaves([result])) for result in self.results)

    def _states(self) -> Iterator[str]:
        refresh(self.results, self.app)
        return map(state_of, leaves(self.results))

    def maybe_throw(self, callback: _Callback | None = None, propagate: bool = True) -> None:
        """Raises what the first member that has failed raised."""
        refresh(self.results, self.app)
        for leaf in leaves(self.results):
            # What has not ended has nothing to raise, and would be read again.
            if callback is not None or state_of(leaf) in states.READY_STATES:
                leaf.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    # -- waiting

    @property
    def supports_native_join(self) -> bool:
        """Whether all are waited for at once: by every result backend."""
        return True

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: _Callback | None = None,
        no_ack: bool = True,
        on_message: _OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any] | None:
        """Waits for all: `join_native`."""
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
        on_message: _OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any]:
        """Waits for one member after the other: the first in the order of the list that has failed raises.

        Args and errors are those of `join_native`.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        end = None if timeout is None else time.monotonic() + timeout
        values: list[Any] = []
        for result in self.results:
            value = result.get(
                timeout=None if end is None else max(0.0, end - time.monotonic()),
                propagate=propagate,
                interval=interval,
                on_message=on_message,
                on_interval=on_interval,
                disable_sync_subtasks=disable_sync_subtasks,
            )
            if callback is not None:
                callback(result.id, value)
            else:
                values.append(value)
        return values

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: _Callback | None = None,
        no_ack: bool = True,
        on_message: _OnMessage | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any] | None:
        """Waits for all of them at once and gives their values in the order of the list; those of a group as a list.

        Args:
            timeout: Seconds for all together; None waits for ever, 0 takes what is there.
            propagate: Raise what the first that fails, in the order of arrival, raised, and for a group what made the
                task before it fail; otherwise exceptions are among the values.
            interval: How often `on_interval` is called; waiting itself does not poll.
            callback: Called with id and value of each member as it ends. Nothing is returned then.
            no_ack: Accepted for compatibility.
            on_message: Called with each stored document.
            on_interval: Called now and then while waiting.
            disable_sync_subtasks: Refuse to wait inside a task.

        Raises:
            TimeoutError: Some did not end in time.
            RuntimeError: A task runs here, and it did not say that it wants to wait.
            NotImplementedError: Results are off.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        tally = Tally(self.results, propagate, callback, on_message)
        for leaf in self._each(tally.awaited, propagate, timeout, interval, on_interval):
            tally.take(leaf)
        return None if callback is not None else list(map(value_of, self.results))

    async def aget(
        self, timeout: float | None = None, propagate: bool = True, callback: _Callback | None = None
    ) -> list[Any] | None:
        """`get` for coroutines."""
        tally = Tally(self.results, propagate, callback, None)
        async for leaf in self._each_later(tally.awaited, propagate, timeout):
            tally.take(leaf)
        return None if callback is not None else list(map(value_of, self.results))

    def __await__(self) -> Generator[Any, None, list[Any] | None]:
        return self.aget().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        tally = Tally(self.results, False, None, None)
        for result in tally.empty:
            yield result
        async for leaf in self._each_later(tally.awaited, False, None):
            for result in tally.take(leaf):
                yield result

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: _OnMessage | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Pairs of id and stored document, as members end; of a group among them its id and its results."""
        for result in self._as_they_end(False, timeout, interval, on_message, on_interval):
            members = result._members()
            yield result.id, (result._cache if members is None else members)

    def iterate(self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5) -> Iterator[Any]:
        """Values, as members end. The first that fails raises, unless `propagate` is false."""
        return map(value_of, self._as_they_end(propagate, timeout, interval, None, None))

    def _as_they_end(
        self,
        propagate: bool,
        timeout: float | None,
        interval: float,
        on_message: _OnMessage | None,
        on_interval: Callable[[], Any] | None,
    ) -> Iterator[Any]:
        tally = Tally(self.results, propagate, None, on_message)
        yield from tally.empty
        for leaf in self._each(tally.awaited, propagate, timeout, interval, on_interval):
            yield from tally.take(leaf)

    def _each(
        self,
        wanted: list[Any],
        follow_parents: bool,
        timeout: float | None,
        interval: float,
        on_interval: Callable[[], Any] | None,
    ) -> Iterator[Any]:
        follows = self if follow_parents and self.parent is not None else None
        return each_as_it_ends(self.app, wanted, follows, timeout, interval, on_interval)

    def _each_later(self, wanted: list[Any], follow_parents: bool, timeout: float | None) -> AsyncIterator[Any]:
        follows = self if follow_parents and self.parent is not None else None
        return each_as_it_ends_later(self.app, wanted, follows, timeout)

    def _failed_join_report(self) -> Iterator[Any]:
        """The members that have failed: result backends for Celery ask for them."""
        return (result for result in self.results if result.failed())

    # -- changing

    def forget(self) -> None:
        """Removes the stored results, and those of the tasks before them in their chains."""
        forget(self.results, self.app)

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
        ids = [leaf.id for leaf in leaves(self.results)]
        self.app.control.revoke(ids, terminate=terminate, signal=signal, **how)

    # -- identity

    def __eq__(self, other: object) -> bool:
        return other.results == self.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes; as in Celery

    def __reduce__(self) -> Any:
        return ResultSet, (self.results,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(_identity(result)) for result in self.results)}]>"


class GroupResult(ResultSet):
    """The results of a group, under the group's id. True when it has an id or members.

    Args:
        id: The group's id.
        results: Its members'.
        parent: The result of what came before it in a chain.
        app: Whose backend they are read from.
    """

    id: str | None

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

    def save(self, backend: Any = None) -> None:
        """Keeps which results are its members', for `restore`: as long as results are kept.

        Args:
            backend: An object with `save_group(id, result)` that keeps it; the app's result backend, unless given.

        Raises:
            NotImplementedError: Results are off, or the result backend cannot keep groups (`rpc://`).
        """
        if backend is not None:
            backend.save_group(self.id, self)
            return
        from celeriac.result.record import build_group

        record, content_type, expires = build_group(self.app, self)
        client_of(self.app).save_group(_known(self.id), record, content_type, expires)

    def delete(self, backend: Any = None) -> None:
        """Removes what `save` kept. The members' results stay.

        Args:
            backend: An object with `delete_group(id)`; the app's result backend, unless given.
        """
        if backend is not None:
            backend.delete_group(self.id)
        else:
            client_of(self.app).forget_group(_known(self.id))

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: Celery | None = None) -> Any:
        """A group that was saved, by Celery or by us; None when there is none of that id.

        Args:
            id: The group's id.
            backend: An object with `restore_group(id)`; the app's result backend, unless given.
            app: Whose backend; the current app's, unless given.

        Raises:
            NotImplementedError: Results are off, or the result backend cannot keep groups (`rpc://`).
        """
        if backend is not None:
            return backend.restore_group(id)
        from celeriac.result.rebuild import result_from_tuple
        from celeriac.result.record import read_group

        app = app_or_default(app if app is not None else cls._app)
        stored = client_of(app).read_group(_known(id))
        return None if stored is None else result_from_tuple(read_group(app, *stored)["result"], app)

    def as_tuple(self) -> tuple[Any, Any]:
        """`((id, parent), members)`, as it is stored."""
        parent = self.parent.as_tuple() if self.parent is not None else None
        return (self.id, parent), [result.as_tuple() for result in self.results]

    def as_list(self) -> list[str]:
        """The ids of its members' tasks, and of those before it."""
        return [leaf.id for leaf in leaves([*self.results, *reversed(ancestors(self))])]

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return (other.id, other.results, other.parent) == (self.id, self.results, self.parent)
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]  # its id does not change
        return hash(self.id)

    def __reduce__(self) -> Any:
        return GroupResult, (self.id, self.results, self.parent)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(str(_identity(result)) for result in self.results)}]>"


def _identity(result: Any) -> Any:
    """What makes two results the same."""
    return getattr(result, "id", None) or id(result)


def _known(group_id: str | None) -> str:
    if not group_id:
        raise ValueError("this group has no id: give it one, GroupResult(id=..., results=...)")
    return group_id
