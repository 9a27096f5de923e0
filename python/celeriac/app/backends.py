"""`app.backend`: the result backend as an object; and how clients read one that is written in Python."""

from __future__ import annotations

import asyncio
import builtins
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.backends.find import by_name, by_url
from celeriac.result.record import StoredMeta

if TYPE_CHECKING:
    from celeriac._core import Client, Completions, ResultRecord
    from celeriac.app.base import Celery

__all__ = ["Backends", "OwnResults", "by_name", "by_url"]

#: Seconds between the first two looks for a result, and between two looks at the most.
_FIRST_LOOK = 0.02
_LONGEST_LOOK = 0.5


class Backends:
    """The result backend objects of an app: one for each thread, unless the backend says that it may be shared."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        # `held`: of each thread, with what it was made for.
        self._local = threading.local()
        # One that may be shared, with what it was made for. Written by any thread; each value is good.
        self._shared: tuple[tuple[int, int], Any] | None = None

    def get(self) -> Any:
        """This thread's. Made anew in a new process, and when settings have changed.

        Raises:
            ImproperlyConfigured: It cannot be imported.
        """
        made_for = (os.getpid(), self._app.conf._generation)
        for held in (self._shared, getattr(self._local, "held", None)):
            if held is not None and held[0] == made_for:
                return held[1]
        cls, url = by_url(self._app.conf.result_backend or self._app.result_backend_effective)
        backend = cls(app=self._app, url=url)
        if getattr(backend, "thread_safe", False):
            self._shared = (made_for, backend)
        else:
            self._local.held = (made_for, backend)
        return backend


class OwnResults:
    """A client whose results are in a backend that is written in Python; all else is the engine's client itself.

    Such a backend tells nobody when a result has come: it is asked again and again, less and less often.
    """

    def __init__(self, app: Celery, client: Client) -> None:
        self._app = app
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def read(self, task_ids: Sequence[str]) -> list[StoredMeta | None]:
        """What is stored for each; None: nothing."""
        return [self._read(task_id) for task_id in task_ids]

    def _read(self, task_id: str) -> StoredMeta | None:
        meta = dict(self._app.backend.get_task_meta(task_id))
        meta.setdefault("task_id", task_id)
        return None if meta["status"] == states.PENDING else StoredMeta(task_id, meta["status"], meta)

    def _ready(self, task_ids: Sequence[str]) -> list[StoredMeta]:
        found = self.read(task_ids)
        return [record for record in found if record is not None and record.state in states.READY_STATES]

    def wait(self, task_ids: Sequence[str], timeout: float | None = None) -> list[StoredMeta]:
        """Until at least one of them has ended; gives those that have.

        Raises:
            TimeoutError: The built-in one: none has ended in time.
        """
        found: list[StoredMeta] = self._look(partial(self._ready, task_ids), timeout)
        if not found:
            raise builtins.TimeoutError
        return found

    def wait_change(
        self, task_id: str, state: str | None, record: bytes | None, timeout: float | None
    ) -> StoredMeta | None:
        """Until what is stored differs from the given; None when the time is over."""

        def changed() -> StoredMeta | None:
            found = self._read(task_id)
            return found if found is not None and (found.state, found.record) != (state, record) else None

        found: StoredMeta | None = self._look(changed, timeout)
        return found

    def _look(self, look: Callable[[], Any], timeout: float | None) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_LOOK
        while not (found := look()):
            left = pause if deadline is None else min(pause, deadline - time.monotonic())
            if left <= 0:
                break
            time.sleep(left)
            pause = min(pause * 2, _LONGEST_LOOK)
        return found

    def wait_later(self, task_ids: Sequence[str], timeout: float | None, completions: Completions, token: int) -> None:
        """`wait` for an event loop, whose thread does not touch the backend."""
        from celeriac.result import _aio

        async def wait() -> list[StoredMeta]:
            loop = asyncio.get_running_loop()
            deadline = None if timeout is None else time.monotonic() + timeout
            pause = _FIRST_LOOK
            while _aio.is_expected(token):
                if found := await loop.run_in_executor(None, self._ready, list(task_ids)):
                    return found
                left = pause if deadline is None else min(pause, deadline - time.monotonic())
                if left <= 0:
                    break
                await asyncio.sleep(left)
                pause = min(pause * 2, _LONGEST_LOOK)
            raise builtins.TimeoutError

        _aio.answer(token, wait())

    def store(self, records: Sequence[ResultRecord]) -> None:
        """Stores states that were encoded for the engine."""
        from celeriac.result.record import read_record

        for record in records:
            meta = read_record(self._app, record)
            self._app.backend.store_result(
                record.task_id, meta["result"], record.state, traceback=meta.get("traceback")
            )

    def forget(self, task_ids: Sequence[str]) -> None:
        """Removes what is stored."""
        for task_id in task_ids:
            self._app.backend.forget(task_id)
