"""The tasks as Dramatiq's actors, on Redis or RabbitMQ; results in Redis."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import bench_base
import dramatiq
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

URL = os.environ["BENCH_URL"]
if URL.startswith("redis"):
    from dramatiq.brokers.redis import RedisBroker

    broker: dramatiq.Broker = RedisBroker(url=URL)
else:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    broker = RabbitmqBroker(url=f"{URL.removesuffix('//')}/%2F")  # the default virtual host, as pika writes it
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_BACKEND"])))
dramatiq.set_broker(broker)

TASKS: dict[str, Any] = {
    "noop": dramatiq.actor()(bench_base.noop),
    "answer": dramatiq.actor(store_results=True)(bench_base.answer),
    "size": dramatiq.actor(store_results=True)(bench_base.size),
    "mark": dramatiq.actor()(bench_base.mark),
}


class Client(bench_base.Client):
    """`send()` and `get_result()`; there is no bulk call: its group sends one by one."""

    def caller(self, task: str) -> Callable[..., Any]:
        call: Callable[..., Any] = TASKS[task].send
        return call

    def get(self, handle: Any) -> Any:
        return handle.get_result(block=True, timeout=30_000)


client = Client()
