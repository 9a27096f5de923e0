"""The tasks for ardiq, whose client and whose faster kind of task are asynchronous."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import bench_base
from ardiq import Ardiq

app = Ardiq(redis_url=os.environ["BENCH_URL"], queue_name="bench")


@app.task()
async def noop() -> None:
    bench_base.noop()


@app.task()
async def answer() -> int:
    return bench_base.answer()


@app.task()
async def size(text: str) -> int:
    return bench_base.size(text)


@app.task()
async def mark(path: str) -> None:
    bench_base.mark(path)


TASKS: dict[str, Any] = {"noop": noop, "answer": answer, "size": size, "mark": mark}


class Client(bench_base.Client):
    """`await enqueue()` in a loop that stays, `enqueue_many()`, and `await result()`."""

    has_bulk = True

    def __init__(self) -> None:
        self.loop = asyncio.Runner()

    def each(self, task: str, number: int, *arguments: Any) -> None:
        async def send() -> None:
            for _ in range(number):
                await TASKS[task].enqueue(*arguments)

        self.loop.run(send())

    def many(self, task: str, number: int) -> None:
        async def send() -> None:
            await app.enqueue_many([TASKS[task].prepare() for _ in range(number)])

        self.loop.run(send())

    def round_trips(self, task: str, number: int, expected: Any, *arguments: Any) -> list[float]:
        async def measure() -> list[float]:
            times = []
            for _ in range(number):
                start = time.perf_counter()
                job = await TASKS[task].enqueue(*arguments)
                found = await job.result(timeout=30)
                times.append((time.perf_counter() - start) * 1e3)
                bench_base.check(found and found.success and found.value, expected)
            return times

        return self.loop.run(measure())


client = Client()
