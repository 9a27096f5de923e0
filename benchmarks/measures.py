"""The measurements. Each takes a system and gives numbers; nothing here knows which system it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import processes
from systems import HERE, System

CONCURRENCY = 2
LATENCY_CALLS = 300
IDLE_SECONDS = 3.0
WAIT_SECONDS = 60.0


def probe(system: System, *arguments: str, relaxed: bool = False) -> Any:
    """Runs one command of `probe.py` in the system's environment."""
    environment = system.relaxed() if relaxed else system.environment()
    command = [str(system.python), str(HERE / "probe.py"), *arguments]
    done = subprocess.run(command, env=environment, cwd=HERE, check=True, stdout=subprocess.PIPE, timeout=180)
    return json.loads(done.stdout)


def wait_for(condition: Callable[[], Any], what: str, pause: float = 0.002) -> Any:
    """Polls until the condition gives something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {WAIT_SECONDS} s for {what}")
        time.sleep(pause)
    return found


@contextmanager
def worker(system: System, scratch: Path) -> Iterator[int]:
    """A worker with two children and otherwise its defaults; gives the pid."""
    command = [str(system.python), "-m", system.module, "-A", "bench_app", "worker"]
    command += ["-c", str(CONCURRENCY), "-l", "WARNING"]
    with (scratch / f"worker-{system.module}.log").open("ab") as log:
        started = subprocess.Popen(
            command, env=system.environment(), cwd=HERE, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield started.pid
        finally:
            started.terminate()
            with suppress(subprocess.TimeoutExpired):
                started.wait(15)
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def warm(system: System, scratch: Path) -> None:
    """Waits until the worker has run a task, and then until it is quiet."""
    path = scratch / "warm"
    path.unlink(missing_ok=True)
    probe(system, "mark", str(path))
    wait_for(path.exists, "the worker's first task")
    time.sleep(1)


def publish(system: System, _scratch: Path) -> dict[str, float]:
    """`delay()` from one thread, no worker running."""
    system.empty()
    found: dict[str, float] = probe(system, "publish", str(system.load // 4))
    return {"delay() per second": found["per_second"], "delay(), CPU in µs": found["cpu_us"]}


def drain(system: System, scratch: Path, task: str) -> tuple[float, float]:
    """Tasks per second, and CPU in µs of the worker's tree for each."""
    system.empty()
    folder = scratch / "drain"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    probe(system, "preload", str(folder), str(system.load), task, relaxed=True)
    with worker(system, scratch) as pid:
        wait_for(lambda: len(list(folder.glob("gate.*"))) == CONCURRENCY, "both children at the gate")
        time.sleep(0.3)
        cpu = processes.cpu_seconds(pid)
        start = time.monotonic()
        (folder / "open").touch()
        wait_for(lambda: len(list(folder.glob("tally.*"))) == CONCURRENCY, "both tallies")
        time.sleep(0.3)
        used = processes.cpu_seconds(pid) - cpu
        tallies = [path.read_text().split() for path in folder.glob("tally.*")]
    executed = sum(int(count) for _, count in tallies)
    if executed != system.load:
        raise RuntimeError(f"{system.name}: {executed} of {system.load} tasks were run")
    end = max(float(moment) for moment, _ in tallies)
    return system.load / (end - start), used / system.load * 1e6


def drain_without_results(system: System, scratch: Path) -> dict[str, float]:
    """No-op tasks that ignore their result."""
    rate, cpu = drain(system, scratch, "noop")
    return {"no-op tasks per second": rate, "no-op task, CPU in µs": cpu}


def drain_with_results(system: System, scratch: Path) -> dict[str, float]:
    """No-op tasks whose result is stored."""
    rate, cpu = drain(system, scratch, "noop_result")
    return {"with results, per second": rate, "with results, CPU in µs": cpu}


def idle(system: System, scratch: Path) -> dict[str, float]:
    """One idle worker: memory, CPU, round trips, and how soon a killed child is replaced."""
    system.empty()
    with worker(system, scratch) as pid:
        warm(system, scratch)
        pss = processes.pss_mb(pid)
        cpu = processes.cpu_seconds(pid)
        time.sleep(IDLE_SECONDS)
        cpu = processes.cpu_seconds(pid) - cpu
        times = sorted(probe(system, "latency", str(LATENCY_CALLS)))
        replaced = sorted(replacement_ms(pid) for _ in range(3))[1]
    return {
        "delay().get() p50, ms": times[len(times) // 2],
        "delay().get() p95, ms": times[len(times) * 95 // 100],
        "delay().get() p99, ms": times[len(times) * 99 // 100],
        "idle worker, PSS in MB": pss,
        "idle worker, % of a core": cpu / IDLE_SECONDS * 100,
        "killed child replaced, ms": replaced,
    }


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


def start_up(system: System, scratch: Path) -> dict[str, float]:
    """From the start of the worker's process to its first task, which was waiting."""
    system.empty()
    path = scratch / "first"
    path.unlink(missing_ok=True)
    probe(system, "mark", str(path))
    start = time.monotonic()
    with worker(system, scratch):
        wait_for(path.exists, "the first task")
        return {"start to first task, s": float(path.read_text()) - start}


def imports(system: System, _scratch: Path) -> dict[str, float]:
    """What a web process pays: the name alone (both load lazily), and the class."""
    found = {}
    for label, statement in (
        ("import package", f"import {system.module}"),
        ("import Celery class", f"from {system.module} import Celery"),
    ):
        costs = [probe(system, "import_cost", statement) for _ in range(5)]
        found[f"{label}, ms"] = sorted(cost["ms"] for cost in costs)[2]
        found[f"{label}, MB"] = sorted(cost["mb"] for cost in costs)[2]
    return found


ALL = (publish, drain_without_results, drain_with_results, idle, start_up, imports)
