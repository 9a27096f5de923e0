"""The tasks for cauli: its sync lane (threads with pinned Python states in a Rust process)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import bench_base
from cauli import Cauli

app = Cauli(redis_url=os.environ["BENCH_URL"], max_envelope_bytes=8 << 20)

TASKS = {
    "noop": app.task(name="noop", store_result=False)(bench_base.noop),
    "answer": app.task(name="answer")(bench_base.answer),
    "size": app.task(name="size")(bench_base.size),
    "mark": app.task(name="mark", store_result=False)(bench_base.mark),
}


class Client(bench_base.Client):
    """`delay()`, `get()`, `enqueue_many()`."""

    has_bulk = True

    def caller(self, task: str) -> Callable[..., Any]:
        call: Callable[..., Any] = TASKS[task].delay
        return call

    def get(self, handle: Any) -> Any:
        return handle.get(timeout=30)

    def many(self, task: str, number: int) -> None:
        app.enqueue_many([TASKS[task]] * number)


client = Client()
