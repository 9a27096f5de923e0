"""The measurements. Each takes a system and gives numbers; nothing here knows which system it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
from servers import RabbitMQ, Redis
from systems import HERE, System

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.005
SETTLE_SECONDS = 0.3
Figures = dict[str, float]


@dataclass
class Bench:
    """What a run has beside its systems: servers, a scratch folder, and how much of everything it does."""

    scratch: Path
    redis: Redis | None
    rabbitmq: RabbitMQ | None
    calls: int = 300
    large_calls: int = 20
    idle_seconds: float = 3.0
    backlogs: tuple[int, int] = (10_000, 200_000)
    dirty: bool = True  # whether messages may be left on RabbitMQ: its tool takes a second to delete queues

    @property
    def counters(self) -> Path:
        """Where the workers' threads count."""
        return self.scratch / "counters"

    def empty(self, system: System) -> None:
        """Forgets messages, results and counts."""
        system.empty(self.redis, self.rabbitmq if self.dirty else None)
        self.dirty &= system.broker != "rabbitmq"
        self.counters.mkdir(exist_ok=True)
        for old in self.counters.iterdir():
            old.unlink()

    def executed(self) -> int:
        """Tasks run since the last `empty`, of all threads of all processes."""
        return sum(int.from_bytes(path.read_bytes(), "little") for path in self.counters.iterdir())

    def server_cpu(self, system: System) -> float:
        """CPU of the broker that the system uses."""
        server = self.rabbitmq if system.broker == "rabbitmq" else self.redis
        return server.cpu() if server and not system.database else 0.0


@dataclass(frozen=True)
class Sample:
    """Where a drain stands at a moment."""

    moment: float
    tasks: int
    worker: float
    server: float
    commands: int


def sample(system: System, bench: Bench, pid: int, tasks: int) -> Sample:
    """Takes the moment first: what reading the rest costs is the same at both ends of a window."""
    moment = time.monotonic()
    commands = bench.redis.commands() if bench.redis else 0
    return Sample(moment, tasks, processes.cpu_seconds(pid), bench.server_cpu(system), commands)


def probe(system: System, bench: Bench, *arguments: str, results: bool = True, relaxed: bool = False) -> Any:
    """Runs one command of `probe.py` in the system's environment."""
    bench.counters.mkdir(exist_ok=True)
    command = [str(system.python), str(HERE / "probe.py"), *arguments]
    environment = system.environment(bench.counters, results=results, relaxed=relaxed)
    done = subprocess.run(command, env=environment, cwd=HERE / "apps", capture_output=True, text=True, timeout=180)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments[0]}: {last_line(done.stderr) or done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def last_line(text: str) -> str:
    """Of an output, what says most about its end."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def wait_for(condition: Callable[[], Any], what: str, pid: int | None = None, pause: float = 0.002) -> Any:
    """Polls until the condition gives something; gives up when the worker has ended."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {WAIT_SECONDS:.0f} s for {what}")
        if pid is not None and not processes.alive(pid):
            raise RuntimeError(f"the worker ended before {what}")
        time.sleep(pause)
    return found


@contextmanager
def worker(system: System, bench: Bench, *, results: bool = True) -> Iterator[int]:
    """A worker as the system recommends it; gives the pid."""
    environment = system.environment(bench.counters, results=results)
    log = bench.scratch / f"worker-{system.broker}-{system.family}.log"
    with log.open("wb") as output:
        started = subprocess.Popen(
            system.command, env=environment, cwd=HERE / "apps", stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield started.pid
        except (RuntimeError, TimeoutError) as error:
            said = last_line(log.read_text(errors="replace"))
            raise RuntimeError(f"{error}; the worker's last words: {said[:200] or 'none'}") from error
        finally:
            started.terminate()
            processes.end(started, 1)


def publish(system: System, bench: Bench) -> Figures:
    """`delay()` from one thread, no worker running."""
    bench.empty(system)
    found: Figures = probe(system, bench, "publish", str(system.loads.calls))
    bench.dirty = True
    return {"delay() per second": found["per_second"], "delay(), CPU in µs": found["cpu_us"]}


def batch(system: System, bench: Bench) -> Figures:
    """Bulk publishing from one thread, a thousand a call, no worker running."""
    if not system.loads.batch:
        return {}
    bench.empty(system)
    found: Figures = probe(system, bench, "batch", str(system.loads.batch))
    bench.dirty = True
    return {"in batches, per second": found["per_second"], "in batches, CPU in µs": found["cpu_us"]}


def fill(system: System, bench: Bench, task: str, number: int, *, results: bool) -> None:
    """Loads the queue. Celery's wire format on Redis is copied: how long that takes is not measured."""
    if system.likeness and system.broker == "redis" and bench.redis:
        probe(system, bench, "fill", task, "1")
        bench.redis.multiply(number)
    else:
        probe(system, bench, "fill", task, str(number), results=results, relaxed=True)


def window(system: System, bench: Bench, pid: int, low: int, high: int) -> tuple[Sample, Sample]:
    """Samples at the moments when so many tasks had been run."""
    samples = []
    for edge in (low, high):
        tasks = 0

        def reached(edge: int = edge) -> bool:
            nonlocal tasks
            tasks = bench.executed()
            return tasks >= edge

        wait_for(reached, f"task {edge:,}", pid, POLL_SECONDS)
        samples.append(sample(system, bench, pid, tasks))
    return samples[0], samples[1]


def drain(system: System, bench: Bench, task: str, label: str) -> Figures:
    """Fills the queue, starts a worker, and measures from a tenth to nine tenths of the load."""
    bench.empty(system)
    load, results = system.loads.drain, task == "answer"
    fill(system, bench, task, load, results=results)
    with worker(system, bench, results=results) as pid:
        first, last = window(system, bench, pid, load // 10, load * 9 // 10)
        wait_for(lambda: bench.executed() >= load, "the last task", pid, POLL_SECONDS)
        if results and bench.redis and not system.database:
            stored(system, bench, pid, load)
        time.sleep(SETTLE_SECONDS)
        if (executed := bench.executed()) != load:
            raise RuntimeError(f"{executed} tasks were run, not {load}")
    tasks = last.tasks - first.tasks
    found = {
        f"{label}, per second": tasks / (last.moment - first.moment),
        f"{label}, worker CPU in µs": (last.worker - first.worker) / tasks * 1e6,
    }
    if not system.database:
        found[f"{label}, broker CPU in µs"] = (last.server - first.server) / tasks * 1e6
        if system.broker == "redis":
            found[f"{label}, Redis commands"] = (last.commands - first.commands) / tasks
    return found


def stored(system: System, bench: Bench, pid: int, load: int) -> None:
    """Every task has left a result in Redis."""
    redis, found = bench.redis, 0
    assert redis is not None

    def complete() -> bool:
        nonlocal found
        found = redis.count(system.results)
        return found >= load

    with suppress(TimeoutError):
        wait_for(complete, "the results", pid, pause=0.05)
    if found != load:
        raise RuntimeError(f"{found} results for {load} tasks")


def drain_without_results(system: System, bench: Bench) -> Figures:
    """No-op tasks that ignore their result."""
    return drain(system, bench, "noop", "no-op task")


def drain_with_results(system: System, bench: Bench) -> Figures:
    """No-op tasks whose result is stored."""
    return drain(system, bench, "answer", "with results")


def backlog(system: System, bench: Bench) -> Figures:
    """The first tasks of a short and of a long queue, where a long one can be made quickly."""
    if not system.loads.backlog:
        return {}
    found = {}
    for length in bench.backlogs:
        bench.empty(system)
        fill(system, bench, "noop", length, results=False)
        tasks = min(system.loads.backlog, length * 8 // 10)
        with worker(system, bench, results=False) as pid:
            first, last = window(system, bench, pid, tasks // 20, tasks // 20 + tasks)
        rate = (last.tasks - first.tasks) / (last.moment - first.moment)
        found[f"backlog of {length:,}, per second"] = rate
    return found


def live(system: System, bench: Bench) -> Figures:
    """One worker: its start; idle, its memory, CPU, one way and round trips; how soon a killed child is replaced."""
    bench.empty(system)
    path = bench.scratch / "first"
    path.unlink(missing_ok=True)
    probe(system, bench, "mark", str(path))
    start = time.monotonic()
    with worker(system, bench) as pid:
        wait_for(path.exists, "the first task", pid)
        started = float(path.read_text()) - start
        time.sleep(1)
        pss = processes.pss_mb(pid)
        cpu = processes.cpu_seconds(pid)
        time.sleep(bench.idle_seconds)
        cpu = processes.cpu_seconds(pid) - cpu
        ways = sorted(probe(system, bench, "one_way", str(bench.scratch), str(bench.calls // 3)))
        times = sorted(probe(system, bench, "latency", str(bench.calls)))
        large = sorted(probe(system, bench, "large", str(bench.large_calls)))
        found = {
            "delay() to task p50, ms": ways[len(ways) // 2],
            "delay().get() p50, ms": times[len(times) // 2],
            "delay().get() p95, ms": times[len(times) * 95 // 100],
            "delay().get() p99, ms": times[len(times) * 99 // 100],
            "1 MB argument, round trip p50, ms": large[len(large) // 2],
            "start to first task, s": started,
            "idle worker, PSS in MB": pss,
            "idle worker, % of a core": cpu / bench.idle_seconds * 100,
        }
        if system.likeness:
            found["killed child replaced, ms"] = sorted(replacement_ms(pid) for _ in range(3))[1]
    return found


def replacement_ms(pid: int) -> float:
    """Kills one child; waits until another process is there in its place."""
    before = processes.leaves(pid)
    victim = min(before)
    start = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: len(processes.leaves(pid) - before) > 0, "the replacement of a killed child", pause=0)
    took = (time.monotonic() - start) * 1e3
    time.sleep(0.3)
    return took


def imports(system: System, bench: Bench) -> Figures:
    """What a web process pays: the name alone (both load lazily), and the class. The broker makes no difference."""
    wanted = {("celeriac", "embedded"), ("celery", "redis")}
    if (system.family, system.broker) not in wanted or system.name.endswith("normal"):
        return {}
    found = {}
    for label, statement in (
        ("import package", f"import {system.family}"),
        ("import Celery class", f"from {system.family} import Celery"),
    ):
        costs = [probe(system, bench, "import_cost", statement) for _ in range(5)]
        found[f"{label}, ms"] = sorted(cost["ms"] for cost in costs)[2]
        found[f"{label}, MB"] = sorted(cost["mb"] for cost in costs)[2]
    return found


ROWS: dict[str, Callable[[System, Bench], Figures]] = {
    "publish": publish,
    "batch": batch,
    "drain": drain_without_results,
    "results": drain_with_results,
    "backlog": backlog,
    "live": live,
    "imports": imports,
}
