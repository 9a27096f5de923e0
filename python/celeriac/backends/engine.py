"""`EngineBackend`: the engine's result backends with the methods of Celery's, for code that asks `app.backend`."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from celeriac import states
from celeriac.backends.base import BaseBackend
from celeriac.exceptions import TimeoutError

__all__ = ["EngineBackend"]

#: What a record says of a request.
_OF_REQUESTS = (
    "args",
    "delivery_info",
    "group",
    "hostname",
    "id",
    "kwargs",
    "parent_id",
    "retries",
    "task",
)


class EngineBackend(BaseBackend):
    """Reads and writes through the app's client. Workers do not need it."""

    supports_native_join = True
    supports_autoexpire = True

    def as_uri(self, include_password: bool = False) -> str:
        """The URL."""
        from celeriac.utils.urls import without_password

        url = self.app.result_backend_effective or "disabled://"
        return url if include_password else without_password(url)

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        from celeriac.result.record import build_record

        if request is not None and not hasattr(request, "_children"):
            # Something like a request, of a library's.
            request = SimpleNamespace(_children=None, **{name: getattr(request, name, None) for name in _OF_REQUESTS})
        self.app.client.store([build_record(self.app, task_id, state, result, traceback=traceback, request=request)])
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        from celeriac.result.record import read_record

        return read_record(self.app, self.app.client.read([task_id])[0])

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything is stored for a task."""
        return self.app.client.read([task_id])[0] is not None

    def _forget(self, task_id: str) -> None:
        self.app.client.forget([task_id])

    def _save_group(self, group_id: str, result: Any) -> Any:
        from celeriac.result.record import build_group

        self.app.client.save_group(group_id, *build_group(self.app, result))
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        from celeriac.result.rebuild import result_from_tuple
        from celeriac.result.record import read_group

        stored = self.app.client.read_group(group_id)
        if stored is None:
            return None
        meta = read_group(self.app, *stored)
        return {**meta, "result": result_from_tuple(meta["result"], self.app)}

    def _delete_group(self, group_id: str) -> None:
        self.app.client.forget_group(group_id)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        """The record of a task, once it has ended.

        Raises:
            TimeoutError: It did not end in time.
        """
        return next(self.get_many([task_id], timeout, interval, on_interval=on_interval))[1]

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Pairs of id and record, as tasks end.

        Raises:
            TimeoutError: Some did not end in time.
        """
        import time

        from celeriac.result.record import read_record

        deadline = None if timeout is None else time.monotonic() + timeout
        missing = dict.fromkeys(map(str, task_ids))
        while missing:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            turn = left if on_interval is None else min(interval, interval if left is None else left)
            try:
                records = self.app.client.wait(list(missing), turn)
            except builtins.TimeoutError as exc:
                if left is not None and left <= (turn or 0.0):
                    raise TimeoutError("The operation timed out.") from exc
                if on_interval is not None:
                    on_interval()
                continue
            for record in records:
                missing.pop(record.task_id, None)
                meta = read_record(self.app, record)
                if on_message is not None:
                    on_message(meta)
                yield record.task_id, meta

    def cleanup(self) -> None:
        """Nothing: the engine's stores let records vanish by themselves."""

    def get_state(self, task_id: str) -> str:
        """The state of a task."""
        record = self.app.client.read([task_id])[0]
        return states.PENDING if record is None else record.state

    get_status = get_state
