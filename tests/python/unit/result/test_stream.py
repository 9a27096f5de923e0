"""`stream` and `astream`: the states of a task as they come."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from celeriac import Celery
from celeriac.exceptions import TimeoutError
from celeriac.result.record import build_record
from celeriac.result.stream import Followed, mark


def store(app: Celery, state: str, info: Any = None, task_id: str = "t") -> None:
    app.client.store([build_record(app, task_id, state, info)])


def test_it_begins_with_the_state_of_now_and_ends_with_the_last(app: Celery) -> None:
    seen = []
    steps = iter([("STARTED", None), ("PROGRESS", {"done": 1}), ("SUCCESS", "value")])

    for now in app.AsyncResult("t").stream(timeout=30):
        seen.append(now)
        if not now.ready:
            store(app, *next(steps))

    assert [(now.state, now.info) for now in seen] == [
        ("PENDING", None),
        ("STARTED", None),
        ("PROGRESS", {"done": 1}),
        ("SUCCESS", "value"),
    ]


def test_a_coroutine_gets_the_same(app: Celery) -> None:
    async def follow() -> list[str]:
        seen = []
        async for now in app.AsyncResult("t").astream(timeout=30):
            seen.append(now.state)
            if now.state == "PENDING":
                await asyncio.to_thread(store, app, "FAILURE", ValueError("bad"))
        return seen

    assert asyncio.run(follow()) == ["PENDING", "FAILURE"]


def test_it_gives_up_in_time(app: Celery) -> None:
    stream = app.AsyncResult("t").stream(timeout=0.01)

    assert next(stream).state == "PENDING"
    with pytest.raises(TimeoutError):
        next(stream)


def test_what_is_stored_again_unchanged_is_not_told_again(app: Celery) -> None:
    stream = app.AsyncResult("t").stream(timeout=30)
    next(stream)
    for state in ("STARTED", "STARTED", "STARTED"):
        store(app, state)
    assert next(stream).state == "STARTED"
    threading.Timer(0.05, store, (app, "STARTED")).start()
    threading.Timer(0.1, store, (app, "SUCCESS", 1)).start()

    assert [now.state for now in stream] == ["SUCCESS"]


def test_an_eager_result_has_one_state(app: Celery) -> None:
    @app.task
    def one() -> int:
        return 1

    result = one.apply()

    assert [tuple(now) for now in result.stream()] == [("SUCCESS", 1, True)]


def test_many_are_followed_by_one(app: Celery, done: Callable[..., None]) -> None:
    followed = Followed(app, ["a", "b", "a"])
    assert followed.begin() == [None, None]

    done(b=2)
    [record] = followed.next(30)

    assert (record.task_id, followed.marks) == ("b", {"a": "", "b": mark(record)})
    done(a=1, b=2)
    assert [one.task_id for one in followed.next(30)] == ["a"]


def test_a_backend_written_in_python_is_followed_too(tmp_path: Any) -> None:
    class Shelf:
        kept: dict[bytes, Any] = {}

    from celeriac.backends.keyvalue import KeyValueStoreBackend

    class ShelfBackend(KeyValueStoreBackend):
        def get(self, key: Any) -> Any:
            return Shelf.kept.get(key)

        def set(self, key: Any, value: Any) -> None:
            Shelf.kept[key] = value

    with Celery("own", broker=f"memory://{tmp_path.name}", backend=ShelfBackend) as app:
        seen = []
        for now in app.AsyncResult("t").stream(timeout=30):
            seen.append(now.state)
            app.backend.store_result("t", len(seen), "SUCCESS" if len(seen) == 2 else "PROGRESS")

    assert seen == ["PENDING", "PROGRESS", "SUCCESS"]
