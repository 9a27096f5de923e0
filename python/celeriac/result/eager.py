"""`EagerResult`: the result of a task that was run here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celeriac import states
from celeriac._state import assert_will_not_block
from celeriac.exceptions import TaskRevokedError
from celeriac.result.async_result import AsyncResult

if TYPE_CHECKING:
    from celeriac.result.stream import TaskState

__all__ = ["EagerResult"]

R_co = TypeVar("R_co", covariant=True)


class EagerResult(AsyncResult[R_co]):
    """Known from the start; reads like any other result."""

    _stored = False

    def __init__(
        self, id: str, ret_value: Any, state: str, traceback: str | None = None, name: str | None = None
    ) -> None:
        super().__init__(id, task_name=name)
        self._value = ret_value
        self._cache = {
            "status": state,
            "result": ret_value,
            "traceback": traceback,
            "task_id": id,
            "children": None,
            "name": name,
        }

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
        """What the task returned, or None if it did something else than return or fail."""
        if disable_sync_subtasks:
            assert_will_not_block()
        document = self._document()
        state, value = document["status"], document["result"]
        if state == states.SUCCESS:
            return cast("R_co", value)
        if state in states.PROPAGATE_STATES:
            if propagate:
                raise value if isinstance(value, BaseException) else Exception(value)
            return cast("R_co", value)
        return cast("R_co", None)

    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        follow_parents: bool = True,
    ) -> R_co:
        """The same for coroutines."""
        return self.get(propagate=propagate, disable_sync_subtasks=False)

    def stream(self, timeout: float | None = None) -> Iterator[TaskState]:
        """The one state that it has."""
        from celeriac.result.stream import TaskState

        document = self._document()
        return iter([TaskState(document["status"], document["result"], ready=True)])

    async def astream(self, timeout: float | None = None) -> AsyncIterator[TaskState]:
        """The same for coroutines."""
        for now in self.stream():
            yield now

    def then(self, callback: Callable[[AsyncResult[Any]], Any], on_error: Any = None, weak: bool = False) -> Any:
        """Calls `callback`, or `on_error` if the task has failed."""
        if self.successful():
            return callback(self)
        return on_error(self) if on_error is not None else None

    def ready(self) -> bool:
        """Always."""
        return True

    def forget(self) -> None:
        """Nothing is stored."""

    def _final_value(self) -> Any:
        return self.get(propagate=False, disable_sync_subtasks=False)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Marks it as revoked, here only."""
        document = self._document()
        document["status"], document["result"] = states.REVOKED, TaskRevokedError("revoked")

    def __reduce__(self) -> Any:
        document = self._document()
        return EagerResult, (self.id, self._value, document["status"], document["traceback"], self.task_name)

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"
