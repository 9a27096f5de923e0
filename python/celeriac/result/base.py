"""What results of tasks and of groups have in common, and what is asked of many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from celeriac import states

if TYPE_CHECKING:
    from celeriac._core import Client, ResultRecord
    from celeriac.app.base import Celery

__all__ = [
    "ResultBase",
    "ancestors",
    "client_of",
    "forget",
    "leaves",
    "raise_first",
    "raise_if_failed",
    "refresh",
    "refresh_later",
    "state_of",
    "value_of",
]


class ResultBase:
    """The result of a task, or those of several."""

    id: Any
    #: The result of what came before it in a chain.
    parent: Any = None
    # Of a task: the document of a final state; nothing overwrites what was read once.
    _cache: dict[str, Any] | None = None

    def _members(self) -> list[Any] | None:
        """Of a group; None for the result of a task."""
        return None

    def _final_value(self) -> Any:
        """Of a task: what `get` gives, once its document is at hand."""
        return None if self._cache is None else self._cache["result"]

    if TYPE_CHECKING:

        def get(self, *, propagate: bool = True) -> Any:
            """Waits; see `AsyncResult.get` and `ResultSet.get`."""

        def successful(self) -> bool:
            """Whether all of it has returned."""

    def then(self, callback: Callable[[Any], Any], on_error: Any = None, weak: bool = False) -> Any:
        """Waits for all of it and calls `callback` with this result, or `on_error` when a task of it has failed.

        Args:
            callback: Called on success.
            on_error: Called on failure; without it nothing is.
            weak: Accepted for compatibility.
        """
        self.get(propagate=False)
        if self.successful():
            return callback(self)
        return on_error(self) if on_error is not None else None


def leaves(results: Iterable[Any]) -> Iterator[Any]:
    """The results of tasks among these, also those in groups within, in order."""
    stack = [iter(results)]
    while stack:
        for result in stack[-1]:
            members = result._members() if isinstance(result, ResultBase) else None
            if members is None:
                yield result
            else:
                stack.append(iter(members))
                break
        else:
            stack.pop()


def ancestors(result: Any) -> list[Any]:
    """What came before it in a chain, from the first on."""
    found = []
    while (result := result.parent) is not None:
        found.append(result)
    return found[::-1]


def client_of(app: Celery) -> Client:
    """The client that reads an app's results.

    Raises:
        NotImplementedError: Results are off.
    """
    if not app.results_enabled:
        raise NotImplementedError(
            "results are off: no result backend is configured. Set `result_backend` (or the environment variable "
            "CELERY_RESULT_BACKEND), such as result_backend='sqlite:///celeriac.db'"
        )
    return app.client


def refresh(results: Iterable[Any], app: Celery) -> None:
    """Reads what is not known to be final, all of it in one round trip."""
    unknown = _unknown(results)
    if unknown:
        _keep(unknown, client_of(app).read(list(unknown)))


async def refresh_later(results: Iterable[Any], app: Celery) -> None:
    """The same for coroutines."""
    from celeriac.result import _aio

    unknown = _unknown(results)
    if unknown:
        _keep(unknown, await _aio.call(partial(client_of(app).read_later, list(unknown))))


def _unknown(results: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for leaf in leaves(results):
        if isinstance(leaf, ResultBase) and leaf._cache is None:
            found.setdefault(leaf.id, []).append(leaf)
    return found


def _keep(unknown: dict[str, list[Any]], records: list[ResultRecord | None]) -> None:
    for found, record in zip(unknown.values(), records, strict=True):
        if record is not None and record.state in states.READY_STATES:
            for leaf in found:
                leaf._keep(record)


def forget(results: Iterable[Any], app: Celery) -> None:
    """Removes what is stored for these and for those before them, in one round trip."""
    ids: dict[str, None] = {}
    found = [leaf for leaf in leaves(results) if getattr(leaf, "_stored", False)]
    for leaf in (*found, *(before for result in found for before in leaves(ancestors(result)))):
        leaf._cache = None
        ids[leaf.id] = None
    if not ids:
        return
    client, wanted = client_of(app), list(ids)
    if not app.has_own_backend and (payloads := app.large_payloads) is not None:
        payloads.forget(client.read(wanted))
    client.forget(wanted)


def state_of(leaf: Any) -> str:
    """The state of a task's result after a refresh; PENDING stands for all that are not final."""
    if not isinstance(leaf, ResultBase):
        return str(leaf.state)
    document = leaf._cache
    return states.PENDING if document is None else str(document["status"])


def raise_if_failed(document: dict[str, Any]) -> None:
    """Raises what a task raised, if its record says so.

    Raises:
        RuntimeError: It has failed, and nobody knows with what.
    """
    if document["status"] in states.PROPAGATE_STATES:
        value = document["result"]
        if value is None:
            raise RuntimeError("No active exception to reraise")
        raise value if isinstance(value, BaseException) else Exception(value)


def raise_first(results: Iterable[Any]) -> None:
    """Raises what the first of these raised that is known to have failed."""
    for leaf in leaves(results):
        if leaf._cache is not None:
            raise_if_failed(leaf._cache)


def value_of(result: Any) -> Any:
    """What was returned or raised, once all documents are at hand: of a group as a list."""
    members = result._members()
    return result._final_value() if members is None else list(map(value_of, members))
