"""Limits of all workers, counted: four workers, and tasks that write down when they run.

LIMIT_SECONDS=20 makes the counting of starts longer.
"""

from __future__ import annotations

import bisect
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery

from ..integration.conftest import WorkerProcess
from .conftest import Pattern, wait_until

RATE = 50
SECONDS = float(os.environ.get("LIMIT_SECONDS", "4"))
APP = """
import os, time
from pathlib import Path
from celeriac import Celery

app = Celery("limited", broker=os.environ["BROKER"], backend=os.environ["RESULT_BACKEND"])
app.conf.worker_lease_seconds = 3
app.conf.task_default_queue = os.environ["QUEUE"]
here = Path(os.environ["HERE"])

def note(name, text):
    file = os.open(here / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, f"{time.time():.6f} {os.getppid()} {text}\\n".encode())
    os.close(file)

@app.task(global_rate_limit="50/s", ignore_result=True)
def start():
    note("starts", "start")

@app.task(max_concurrency=3, ignore_result=True)
def busy(seconds):
    note("busy", "+")
    time.sleep(seconds)
    note("busy", "-")

@app.task(max_concurrency=2, limit_key="tenant", ignore_result=True)
def serve(tenant):
    time.sleep(0.01)
    note("served", tenant)

@app.task(max_concurrency=1, ignore_result=True)
def hold(seconds):
    note("held", "+")
    # One that is run again after its worker was killed must not take as long.
    time.sleep(0.01 if seconds > 10 and (here / "killed").exists() else seconds)
    note("held", "-")

@app.task(max_concurrency=1)
def value(number):
    return number

@app.task(ignore_result=True)
def free():
    note("free", "+")
"""


class Cluster:
    """Workers on one broker, and a client."""

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        queue = f"limited-{pattern.folder.name}"
        pattern.environment.update(HERE=str(pattern.folder), QUEUE=queue)
        pattern.folder.joinpath("limited.py").write_text(APP)
        self.client = Celery("client", broker=pattern.broker, backend=pattern.backend, set_as_current=False)
        self.client.conf.task_default_queue = queue
        self.workers: list[WorkerProcess] = []

    def start(self, count: int, *options: str) -> None:
        names = range(len(self.workers), len(self.workers) + count)
        for number in names:
            command = ("-m", "celeriac", "-A", "limited", "worker", "-l", "INFO", "-n", f"w{number}@host", *options)
            self.workers.append(self.pattern.start(*command))
        for worker in self.workers:
            worker.wait_for(r" ready\.$")

    def start_again(self) -> None:
        """One worker, after all others have ended."""
        self.workers = []
        self.start(1, "-c", "2")

    def send(self, name: str, *args: Any, count: int = 1, **options: Any) -> None:
        for _ in range(count):
            self.client.send_task(f"limited.{name}", args, **options)

    def notes(self, name: str) -> list[tuple[float, int, str]]:
        path = Path(self.pattern.folder, name)
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(at), int(pid), text) for at, pid, text in (line.split() for line in lines)]

    def wait_for_notes(self, name: str, count: int, seconds: float = 60.0) -> list[tuple[float, int, str]]:
        wait_until(
            lambda: len(self.notes(name)) >= count, f"{count} notes of {name}\n{self.pattern.logs[-3000:]}", seconds
        )
        return self.notes(name)


@pytest.fixture
def cluster(pattern: Pattern) -> Cluster:
    return Cluster(pattern)


def most_at_once(notes: list[tuple[float, int, str]]) -> int:
    running = most = 0
    # At the same moment an end comes first.
    for _, text in sorted((at, text == "+") for at, _, text in notes):
        running += 1 if text else -1
        most = max(most, running)
    return most


def test_never_more_starts_in_any_window_and_nearly_all_of_them_are_used(cluster: Cluster) -> None:
    count = int(RATE * SECONDS)
    cluster.send("start", count=count)
    cluster.start(4, "-c", "2")

    used: list[float] = []
    # How much is used goes by how soon a process gets its turn on the machine; that it is never too much does not.
    for attempt in range(1, 4):
        starts = sorted(at for at, _, _ in cluster.wait_for_notes("starts", attempt * count))
        assert len(starts) == attempt * count
        for place, start in enumerate(starts):
            within = bisect.bisect_left(starts, start + 1.0) - place
            assert within <= RATE, f"{within} starts in the second from {start}"
        last = starts[-count:]
        used.append((count - 1) / (last[-1] - last[0]) / RATE)
        if used[-1] >= 0.95:
            break
        cluster.send("start", count=count)
    assert max(used) >= 0.95, f"{used} of the limit was used"


def test_never_more_run_at_once_and_a_lone_tenant_is_not_held_back(cluster: Cluster) -> None:
    cluster.start(4, "-c", "2")
    cluster.send("busy", 0.05, count=40)
    cluster.send("free")
    notes = cluster.wait_for_notes("busy", 80)
    assert most_at_once(notes) == 3
    assert sum(text == "+" for _, _, text in notes) == 40
    assert len({pid for _, pid, _ in notes}) > 1, "one worker alone had all turns"
    # What has no limit passed by what waited.
    assert cluster.wait_for_notes("free", 1)[0][0] < sorted(at for at, _, _ in notes)[40]

    # A client that does not know the task says the key itself.
    cluster.send("serve", "big", count=300, limit_key="big")
    cluster.send("serve", "small", limit_key="small")
    served = [tenant for _, _, tenant in sorted(cluster.wait_for_notes("served", 301))]
    # Without turns of its own it would be the last.
    assert served.index("small") < 250


def test_turns_of_a_killed_worker_come_back_and_a_stop_gives_back_what_waits(cluster: Cluster) -> None:
    cluster.start(2, "-c", "1")
    cluster.send("hold", 60)
    (_, holder, _), *_ = cluster.wait_for_notes("held", 1)
    cluster.send("hold", 0.01)
    by_pid = {worker.pid: worker for worker in cluster.workers}
    killed = by_pid[supervisor_of(holder, by_pid)]
    cluster.pattern.folder.joinpath("killed").touch()
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()

    notes = cluster.wait_for_notes("held", 3)
    assert most_at_once(notes) <= 2, "only the turn of the dead worker was given again"

    (left,) = (worker for worker in cluster.workers if worker is not killed)
    cluster.send("hold", 1.0)
    cluster.wait_for_notes("held", len(cluster.notes("held")) + 1)
    results = [cluster.client.send_task("limited.value", (number,)) for number in range(5)]
    assert left.stop() == 0
    cluster.start_again()
    assert [result.get(timeout=30) for result in results] == list(range(5))


def supervisor_of(pid: int, supervisors: dict[int, WorkerProcess]) -> int:
    """The worker that a process belongs to: one of its ancestors."""
    while pid not in supervisors:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid


@pytest.mark.parametrize("kind", ["rabbitmq"], indirect=True)
def test_a_worker_that_cannot_keep_limits_says_so_and_ends(cluster: Cluster) -> None:
    cluster.pattern.environment["RESULT_BACKEND"] = "rpc://"
    worker = cluster.pattern.start("-m", "celeriac", "-A", "limited", "worker", "-c", "1")

    assert worker.wait() != 0
    assert "has a limit of all workers" in worker.log
    assert "result_backend" in worker.log


@pytest.mark.parametrize("kind", ["embedded"], indirect=True)
def test_limits_are_seen_and_changed_while_workers_run(cluster: Cluster) -> None:
    cluster.start(1, "-c", "2")
    cluster.send("hold", 0.3, count=6)
    inspect = cluster.client.control.inspect(timeout=5.0, limit=1)

    def waits() -> Any:
        (told,) = (inspect.limits() or {"": {}}).values()
        return told.get("task:limited.hold", {}).get("", {})

    wait_until(lambda: waits().get("running") == 1, "one runs")
    answers = cluster.client.control.limit("limited.hold", max_concurrency=2, reply=True, timeout=5.0, limit=1)
    assert answers == [{"w0@host": {"ok": "new limit set successfully"}}]

    assert most_at_once(cluster.wait_for_notes("held", 12)) == 2
