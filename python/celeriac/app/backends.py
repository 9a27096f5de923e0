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
from celeriac.result import _aio
from celeriac.result.record import StoredMeta, build_group, read_group, read_record

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

    def read_later(self, task_ids: Sequence[str], completions: Completions, token: int) -> None:
        """`read` for an event loop, whose thread does not touch the backend."""
        _aio.answer(token, _in_thread(partial(self.read, list(task_ids))))

    def wait_later(self, task_ids: Sequence[str], timeout: float | None, completions: Completions, token: int) -> None:
        """`wait` for an event loop."""
        _aio.answer(token, self._look_later(partial(self._ready, list(task_ids)), timeout, token))

    async def _look_later(
        self, look: Callable[[], list[StoredMeta]], timeout: float | None, token: int
    ) -> list[StoredMeta]:
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_LOOK
        # Until nobody waits any more.
        while _aio.is_expected(token):
            if found := await _in_thread(look):
                return found
            left = pause if deadline is None else min(pause, deadline - time.monotonic())
            if left <= 0:
                break
            await asyncio.sleep(left)
            pause = min(pause * 2, _LONGEST_LOOK)
        raise builtins.TimeoutError

    def arrivals(self, task_ids: Sequence[str], before: Sequence[str] = ()) -> Arrivals:
        """The final records of many tasks; of those in `before` only failures."""
        return Arrivals(self, task_ids, before)

    def changes(self, task_ids: Sequence[str]) -> Changes:
        """The records of tasks, each time one changes."""
        return Changes(self, task_ids)

    def store(self, records: Sequence[ResultRecord]) -> None:
        """Stores states that were encoded for the engine."""
        for record in records:
            meta = read_record(self._app, record)
            self._app.backend.store_result(
                record.task_id, meta["result"], record.state, traceback=meta.get("traceback")
            )

    def forget(self, task_ids: Sequence[str]) -> None:
        """Removes what is stored."""
        for task_id in task_ids:
            self._app.backend.forget(task_id)

    def save_group(self, group_id: str, record: bytes, content_type: str, expires_ms: int | None = None) -> None:
        """Keeps which results are a group's."""
        from celeriac.result.rebuild import result_from_tuple

        members = read_group(self._app, record, content_type)["result"]
        self._app.backend.save_group(group_id, result_from_tuple(members, self._app))

    def read_group(self, group_id: str) -> tuple[bytes, str] | None:
        """What was saved of a group."""
        group = self._app.backend.restore_group(group_id, cache=False)
        return None if group is None else build_group(self._app, group)[:2]

    def forget_group(self, group_id: str) -> None:
        """Removes what was saved of a group."""
        self._app.backend.delete_group(group_id)


class Arrivals:
    """The final records of many tasks, each given once. Used by one caller at a time.

    Args:
        results: Where they are read.
        task_ids: Whose.
        before: More of them, of which only failures are given.
    """

    def __init__(self, results: OwnResults, task_ids: Sequence[str], before: Sequence[str]) -> None:
        self._results = results
        self._wanted = dict.fromkeys(task_ids)
        self._before = dict.fromkeys(before)

    def next(self, timeout: float | None = None) -> list[StoredMeta]:
        """Waits for some that were not given before; empty when all have been given.

        Raises:
            TimeoutError: The built-in one: none has ended in time.
        """
        if not self._wanted:
            return []
        found: list[StoredMeta] = self._results._look(self._look, timeout)
        if not found:
            raise builtins.TimeoutError
        return found

    def next_later(self, timeout: float | None, completions: Completions, token: int) -> None:
        """The same for an event loop."""

        async def wait() -> list[StoredMeta]:
            return await self._results._look_later(self._look, timeout, token) if self._wanted else []

        _aio.answer(token, wait())

    def _look(self) -> list[StoredMeta]:
        found = []
        for record in self._results._ready([*self._before, *self._wanted]):
            wanted = record.task_id in self._wanted
            self._wanted.pop(record.task_id, None)
            self._before.pop(record.task_id, None)
            if wanted or record.state in states.PROPAGATE_STATES:
                found.append(record)
        return found


class Changes:
    """The records of some tasks, each time one changes. Used by one caller at a time.

    Args:
        results: Where they are read.
        task_ids: Whose.
    """

    def __init__(self, results: OwnResults, task_ids: Sequence[str]) -> None:
        self._results = results
        self._task_ids = list(task_ids)
        self._seen: dict[str, bytes] = {}

    def next(self, timeout: float | None = None) -> list[StoredMeta]:
        """Waits for some that are new; the first time for any that are stored.

        Raises:
            TimeoutError: The built-in one: none has changed in time.
        """
        found: list[StoredMeta] = self._results._look(self._look, timeout)
        if not found:
            raise builtins.TimeoutError
        return found

    def next_later(self, timeout: float | None, completions: Completions, token: int) -> None:
        """The same for an event loop."""
        _aio.answer(token, self._results._look_later(self._look, timeout, token))

    def _look(self) -> list[StoredMeta]:
        found = []
        for record in self._results.read(self._task_ids):
            if record is not None and self._seen.get(record.task_id) != (content := record.record):
                self._seen[record.task_id] = content
                found.append(record)
        return found


async def _in_thread(look: Callable[[], list[Any]]) -> list[Any]:
    return await asyncio.get_running_loop().run_in_executor(None, look)
