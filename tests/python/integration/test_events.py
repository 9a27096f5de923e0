"""Events and the health address, on the embedded broker."""

from __future__ import annotations

import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from ..servers.run import free_port
from .conftest import Project, wait_until


class Monitor:
    """Hears everything, on a thread of its own."""

    def __init__(self, project: Project) -> None:
        self.heard: list[dict[str, Any]] = []
        self.listening = threading.Event()
        self.receiver = project.client.events.Receiver(project.client.connection(), handlers={"*": self.heard.append})
        self.receiver.wakeup_workers = self.listening.set
        self.thread = threading.Thread(target=self.receiver.capture, kwargs={"wakeup": True})
        self.thread.start()
        assert self.listening.wait(20)

    def of(self, task_id: str) -> list[str]:
        return [event["type"] for event in self.heard if event.get("uuid") == task_id]

    def close(self) -> None:
        self.receiver.should_stop = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def monitor(project: Project) -> Iterator[Monitor]:
    made = Monitor(project)
    yield made
    made.close()


def test_what_happens_on_the_embedded_broker_is_told(project: Project, monitor: Monitor) -> None:
    project.write("""
        @app.task(bind=True)
        def add(self, x, y):
            self.send_event("task-progress", done=1)
            return x + y
        """)
    worker = project.start("-E", "-c", "1", "--heartbeat-interval", "0.2")
    result = project.send("tasks.add", 2, 3)
    assert result.get(timeout=20) == 5

    wanted = ["task-progress", "task-received", "task-started", "task-succeeded"]
    wait_until(lambda: sorted(monitor.of(result.id)) == wanted, "all its events")
    wait_until(lambda: "worker-heartbeat" in [event["type"] for event in monitor.heard], "a heartbeat")
    assert worker.stop() == 0
    wait_until(lambda: monitor.heard[-1]["type"] == "worker-offline", "the goodbye")
    assert monitor.heard[0]["type"] == "worker-online"


def test_a_worker_without_heartbeats_and_events_tells_nothing(project: Project, monitor: Monitor) -> None:
    project.write("""
        @app.task
        def add(x, y):
            return x + y
        """)
    worker = project.start("-c", "1", "--without-heartbeat")
    assert project.send("tasks.add", 2, 3).get(timeout=20) == 5
    assert worker.stop() == 0
    # What it had told would come before this.
    with project.client.events.default_dispatcher() as dispatcher:
        dispatcher.send("my-end")
    wait_until(lambda: monitor.heard, "our own event")
    assert [event["type"] for event in monitor.heard] == ["my-end"]


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_is_told_while_every_process_is_stuck(project: Project) -> None:
    project.write("""
        import re

        @app.task
        def stuck():
            mark("stuck")
            # One call into C, which holds the interpreter.
            re.match("(a*)*b", "a" * 40)
        """)
    port = free_port()
    worker = project.start("-c", "1", "--health-address", str(port))
    project.send("tasks.stuck")
    project.wait_for_mark("stuck")

    assert get(port, "/live") == (200, "ok\n")
    assert get(port, "/ready") == (200, "ok\n")
    wait_until(lambda: "celery_worker_tasks_active{" in get(port, "/metrics")[1], "metrics")

    def counted() -> bool:
        text = get(port, "/metrics")[1]
        return 'celery_task_started_total{name="tasks.stuck"' in text and " 1\n" in text

    wait_until(counted, "the task that began is counted")
    assert get(port, "/")[0] == 404
    worker.signal(signal.SIGTERM)
    wait_until(lambda: get(port, "/ready") == (503, "the worker is stopping\n"), "it says that it stops")
    assert get(port, "/live")[0] == 200
    worker.kill()


def test_a_health_address_that_is_none_is_refused_before_the_start(project: Project) -> None:
    project.write("")
    worker = project.start("--health-address", "everywhere", ready=False)
    assert worker.wait() == 2
    assert "health_address" in worker.log
    assert "HOST:PORT" in worker.log
