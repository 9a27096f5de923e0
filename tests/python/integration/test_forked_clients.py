"""A client that was used before a fork (gunicorn --preload, uWSGI) serves parent and children, on real brokers."""

from __future__ import annotations

import os
import threading
import traceback

import pytest

from celeriac import Celery

CHILDREN = 3
THREADS = 4
CALLS = 25
#: Before the fork: enough for every connection that a client makes for publishing.
BEFORE = 40


@pytest.fixture(params=["redis", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


def call_from_threads(app: Celery, failures: list[str]) -> None:
    def call() -> None:
        try:
            for number in range(CALLS):
                app.send_task("tasks.add", (number, 1), ignore_result=True)
        except BaseException:
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=call) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if any(thread.is_alive() for thread in threads):
        failures.append("a call hangs")


def test_parent_and_forked_children_all_send(url: str) -> None:
    app = Celery("forked", broker=url, set_as_current=False)
    for number in range(BEFORE):
        app.send_task("tasks.add", (number, 0), ignore_result=True)
    pids = []
    for _ in range(CHILDREN):
        pid = os.fork()
        if pid == 0:
            failures: list[str] = []
            call_from_threads(app, failures)
            os.write(2, "\n".join(failures).encode())
            os._exit(len(failures))
        pids.append(pid)
    failures = []
    call_from_threads(app, failures)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

    assert failures == []
    assert codes == [0] * CHILDREN
    (queue,) = [queue for queue in app.client.queues() if queue["name"] == "celery"]
    assert queue["ready"] == BEFORE + (CHILDREN + 1) * THREADS * CALLS
    app.close()
