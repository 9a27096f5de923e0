"""A hundred thousand tasks with an ETA in an hour, sent by a client of Celery, cost the worker no memory."""

from __future__ import annotations

import base64
import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from socket import TCP_USER_TIMEOUT
from types import ModuleType

import amqp
import pytest
import redis
from fleet import Fleet, rss_kib, until

TASKS = 100_000
BODY = json.dumps([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])


#: Parking over AMQP needs memory for what is on its way, some 16 MiB however many there are: they are parked before the
#: first look. On Redis there is none, since a script parks.
FIRST_OVER_AMQP = 10_000


def headers(count: int) -> Iterator[dict[str, object]]:
    """As Celery's client writes them, each with an id of its own."""
    eta = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).isoformat()
    for _ in range(count):
        one = str(uuid.uuid4())
        yield {
            "lang": "py",
            "task": "fault_app.noop",
            "id": one,
            "root_id": one,
            "parent_id": None,
            "group": None,
            "retries": 0,
            "eta": eta,
            "expires": None,
            "timelimit": [None, None],
            "argsrepr": "()",
            "kwargsrepr": "{}",
            "origin": "gen1@host",
            "ignore_result": True,
        }


def fill_redis(url: str) -> None:
    body = base64.b64encode(BODY.encode()).decode()
    with redis.Redis.from_url(url) as client:
        pipeline = client.pipeline(transaction=False)
        for number, head in enumerate(headers(TASKS)):
            properties = {
                "correlation_id": head["id"],
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "celery"},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            }
            envelope = {
                "body": body,
                "content-encoding": "utf-8",
                "content-type": "application/json",
                "headers": head,
                "properties": properties,
            }
            pipeline.lpush("celery", json.dumps(envelope))
            if number % 1_000 == 999:
                pipeline.execute()


def fill_rabbitmq(url: str, count: int) -> None:
    address, _, host = url.removeprefix("amqp://guest:guest@").partition("/")
    # A busy server may read nothing for longer than the second that this client allows by itself.
    patient = {TCP_USER_TIMEOUT: 60_000}
    with closing(amqp.Connection(address, virtual_host=host, socket_settings=patient)) as connection:
        connection.connect()
        channel = connection.channel()
        for head in headers(count):
            message = amqp.Message(
                BODY,
                application_headers=head,
                content_type="application/json",
                content_encoding="utf-8",
                delivery_mode=1,  # what is measured is the worker, not the disk
                priority=0,
                correlation_id=head["id"],
            )
            channel.basic_publish(message, routing_key="celery")
        channel.queue_declare("celery", passive=True)  # an answer: everything before it has arrived


def waiting_in_rabbitmq(url: str) -> int:
    address, _, host = url.removeprefix("amqp://guest:guest@").partition("/")
    with closing(amqp.Connection(address, virtual_host=host)) as connection:
        connection.connect()
        return connection.channel().queue_declare("celery", passive=True).message_count


@pytest.mark.parametrize("places", ["redis", "rabbitmq"], indirect=True)
def test_far_etas_cost_the_worker_no_memory(
    server_fleet: Fleet, client_of: Callable[..., ModuleType], figure: Callable[[str], None]
) -> None:
    client = client_of(server_fleet)
    worker = server_fleet.start("-c", "2")
    # It has had a crowd before: what is measured is what stays for those that wait.
    assert [result.get(timeout=30) for result in [client.work.delay(n) for n in range(500)]] == list(range(500))
    if server_fleet.broker.startswith("amqp"):
        fill_rabbitmq(server_fleet.broker, FIRST_OVER_AMQP)
        until(lambda: waiting_in_rabbitmq(server_fleet.broker) == 0, 60, "the first are parked")
    before = rss_kib(worker.pid)

    if server_fleet.broker.startswith("redis"):
        fill_redis(server_fleet.broker)
        with redis.Redis.from_url(server_fleet.broker) as raw:
            until(lambda: raw.llen("celery") == raw.hlen("unacked") == 0, 60, "all are parked")
    else:
        fill_rabbitmq(server_fleet.broker, TASKS)
        until(lambda: waiting_in_rabbitmq(server_fleet.broker) == 0, 90, "all are parked")
    assert client.work.delay(1_000).get(timeout=60) == 1_000
    grown = rss_kib(worker.pid) - before

    broker = server_fleet.broker.partition(":")[0]
    figure(f"{broker}: {TASKS:,} tasks of Celery with an ETA in an hour: worker memory {grown / 1024:+.1f} MiB")
    assert grown < 10 * 1024
