"""A Redis that stops answering under a client that is connected: calls can be interrupted, loops go on."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable

import pytest

from celeriac import Celery
from celeriac.exceptions import OperationalError

from ..servers.redis_server import RedisServer

#: Calls after which a client has every connection that it makes for publishing.
WARM = 40
#: Far above what any of this takes.
PATIENCE = 60.0


@pytest.fixture
def server(own_redis: Callable[..., RedisServer]) -> RedisServer:
    return own_redis()


def pause(server: RedisServer) -> None:
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)


def resume(server: RedisServer) -> None:
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGCONT)


def warm(server: RedisServer, **settings: object) -> Celery:
    app = Celery("stalled", broker=server.url(), set_as_current=False)
    app.conf.update(settings)
    for _ in range(WARM):
        app.send_task("tasks.add", (1, 2), ignore_result=True)
    return app


def ready(app: Celery) -> int:
    (queue,) = [queue for queue in app.client.queues() if queue["name"] == "celery"]
    count: int = queue["ready"]
    return count


def test_a_signal_handler_that_raises_ends_a_call_that_waits(server: RedisServer) -> None:
    class Enough(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        raise Enough

    app = warm(server, broker_connection_timeout=PATIENCE)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        pause(server)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Enough):
            app.send_task("tasks.add", (1, 2), ignore_result=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resume(server)

    for _ in range(WARM):
        app.send_task("tasks.add", (1, 2), ignore_result=True)
    # The one that was interrupted is there or not: nobody knows.
    assert ready(app) - 2 * WARM in (0, 1)
    app.close()


def test_a_call_ends_at_its_deadline_and_other_threads_go_on(server: RedisServer) -> None:
    app = warm(server, broker_connection_timeout=1.0)
    pause(server)
    failures: list[str] = []

    def call() -> None:
        try:
            app.send_task("tasks.add", (1, 2), ignore_result=True)
        except OperationalError as error:
            failures.append(str(error))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE)
    resume(server)

    assert not any(caller.is_alive() for caller in callers)
    assert len(failures) == len(callers)
    assert all(f"127.0.0.1:{server.port}" in text for text in failures), failures
    for _ in range(WARM):
        app.send_task("tasks.add", (1, 2), ignore_result=True)
    app.close()


def test_an_event_loop_goes_on_while_its_call_waits(server: RedisServer) -> None:
    app = warm(server, broker_connection_timeout=PATIENCE)

    @app.task(name="tasks.add", ignore_result=True)
    def add(x: int, y: int) -> int:
        return x + y

    async def main() -> int:
        pause(server)
        call = asyncio.ensure_future(add.adelay(1, 2))
        turns = 0
        while turns < 20:
            await asyncio.sleep(0.005)
            turns += 1
        assert not call.done()
        resume(server)
        await asyncio.wait_for(call, PATIENCE)
        return turns

    try:
        assert asyncio.run(main()) == 20
    finally:
        resume(server)
    assert ready(app) == WARM + 1
    app.close()
