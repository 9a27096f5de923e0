"""The tasks for mayu. Results are a matter of its whole app: `BENCH_RESULTS` says whether they are kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import bench_base
from mayu import App

app = App(broker=os.environ["BENCH_URL"], result_ttl=3600 if os.environ["BENCH_RESULTS"] == "1" else None)

TASKS = {name: app.task(getattr(bench_base, name), name=name) for name in ("noop", "answer", "size", "mark")}


class Client(bench_base.Client):
    """`delay()` and `result()`; there is no bulk call."""

    def caller(self, task: str) -> Callable[..., Any]:
        return TASKS[task].delay

    def get(self, handle: Any) -> Any:
        return handle.result(timeout=30)


client = Client()
