"""Results of many tasks in a backend that is written in Python: the same answers, by asking again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celery, exceptions
from celeriac.backends.keyvalue import KeyValueStoreBackend
from celeriac.result import AsyncResult, GroupResult


class Shelf(KeyValueStoreBackend):
    """A dictionary of this process."""

    kept: dict[bytes, Any] = {}

    def get(self, key: bytes) -> Any:
        return self.kept.get(key)

    def set(self, key: bytes, value: Any) -> Any:
        self.kept[key] = value

    def delete(self, key: bytes) -> Any:
        self.kept.pop(key, None)


@pytest.fixture
def own() -> Iterator[Celery]:
    Shelf.kept.clear()
    with Celery("own", broker="memory://", backend=Shelf) as app:
        yield app


def group(app: Celery, *ids: str, parent: Any = None) -> GroupResult:
    return GroupResult("g", [AsyncResult(task_id, app=app) for task_id in ids], parent=parent, app=app)


def test_many_are_read_joined_and_awaited(own: Celery) -> None:
    own.backend.store_result("b", 2, "SUCCESS")
    results = group(own, "a", "b", parent=AsyncResult("first", app=own))
    assert (results.ready(), results.completed_count()) == (False, 1)

    later = threading.Timer(0.05, lambda: own.backend.store_result("a", 1, "SUCCESS"))
    later.start()

    assert results.get(timeout=30) == [1, 2]
    assert asyncio.run(group(own, "a", "b", parent=AsyncResult("first", app=own)).aget(timeout=30)) == [1, 2]
    later.join()


def test_what_came_before_and_failed_ends_the_wait(own: Celery) -> None:
    own.backend.store_result("first", KeyError("before"), "FAILURE")
    first: AsyncResult[Any] = AsyncResult("first", app=own)

    with pytest.raises(KeyError, match="before"):
        AsyncResult("second", app=own, parent=first).get(timeout=30)
    with pytest.raises(KeyError, match="before"):
        group(own, "a", parent=AsyncResult("first", app=own)).get(timeout=30)
    with pytest.raises(exceptions.TimeoutError):
        group(own, "a").get(timeout=0.02)


def test_groups_are_saved_there(own: Celery) -> None:
    saved = group(own, "a", "b", parent=AsyncResult("first", app=own))
    saved.save()
    assert list(Shelf.kept) == [b"celery-taskset-meta-g"]

    assert GroupResult.restore("g", app=own) == saved
    saved.delete()
    assert GroupResult.restore("g", app=own) is None
