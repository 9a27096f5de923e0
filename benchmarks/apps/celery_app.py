"""The tasks as Celery's API has them: for Celery and for celeriac, as `BENCH_SYSTEM` says."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import bench_base

package = importlib.import_module(os.environ["BENCH_SYSTEM"])
app = package.Celery("bench", broker=os.environ["BENCH_URL"], backend=os.environ["BENCH_BACKEND"])

TASKS = {
    "noop": app.task(bench_base.noop, name="noop", ignore_result=True),
    "answer": app.task(bench_base.answer, name="answer"),
    "size": app.task(bench_base.size, name="size"),
    "mark": app.task(bench_base.mark, name="mark", ignore_result=True),
}


class Client(bench_base.Client):
    """`delay()`, `get()`, and in bulk what the package has: celeriac's `delay_many`, Celery's group."""

    has_bulk = True

    def caller(self, task: str) -> Callable[..., Any]:
        call: Callable[..., Any] = TASKS[task].delay
        return call

    def get(self, handle: Any) -> Any:
        return handle.get(timeout=30)

    def many(self, task: str, number: int) -> None:
        one = TASKS[task]
        if package.__name__ == "celery":
            package.group(one.s() for _ in range(number)).apply_async()
        else:
            one.delay_many(() for _ in range(number))


client = Client()
