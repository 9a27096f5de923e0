"""How many tasks that wait 50 ms a pool with a thousand slots ends in a second, on Redis: celeriac and Celery.

    python benchmarks/coroutines.py --celeriac .venv/bin/python --celery .venv-celery/bin/python

Each queue is filled before its worker starts, and the first thousand tasks are not measured. Celery's environment
needs gevent. Memory is that of the whole worker (PSS) when the last task has run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import processes
import servers

HERE = Path(__file__).resolve().parent
PATIENCE_SECONDS = 120.0
FILL = "import sys, sleep_app; sleep_app.app.tasks[sys.argv[1]].delay()"


@dataclass(frozen=True)
class Row:
    """One pool."""

    family: str
    pool: str
    task: str
    tasks: int
    slots: int = 1000


ROWS = (
    Row("celeriac", "asyncio", "awaits", 20_000),
    Row("celery", "gevent", "waits", 4_000),
    Row("celeriac", "gevent", "waits", 10_000),
    Row("celery", "threads", "waits", 4_000),
    Row("celeriac", "threads", "waits", 10_000),
)


def measure(row: Row, python: Path, redis: servers.Redis, folder: Path) -> dict[str, float]:
    """Runs one row; tasks a second, CPU in microseconds a task, memory in MB."""
    redis.do("FLUSHALL")
    for old in folder.iterdir():
        old.unlink()
    environment = {
        **os.environ,
        "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{HERE / 'apps'}",
        "BENCH_SYSTEM": row.family,
        "BENCH_URL": f"{redis.url}/0",
        "BENCH_COUNTERS": str(folder),
    }
    subprocess.run([python, "-c", FILL, row.task], env=environment, check=True, cwd=HERE / "apps")
    redis.multiply(row.tasks)
    command = [
        python,
        "-m",
        row.family,
        "-A",
        "sleep_app",
        "worker",
        "-P",
        row.pool,
        "-c",
        str(row.slots),
        "-l",
        "WARNING",
    ]
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(
            command, env=environment, cwd=HERE / "apps", stdout=log, stderr=log, start_new_session=True
        )
        try:
            first = wait(folder, row.slots, started.pid)
            last = wait(folder, row.tasks, started.pid)
            memory = processes.pss_mb(started.pid)
        finally:
            started.terminate()
            processes.end(started, 3)
    ran, seconds, cpu = (after - before for before, after in zip(first, last, strict=True))
    return {"tasks/s": ran / seconds, "CPU us/task": cpu / ran * 1e6, "PSS MB": memory}


def wait(folder: Path, tasks: int, pid: int) -> tuple[float, float, float]:
    """Waits until that many have run; gives how many, the moment, and the worker's CPU so far."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        ran = sum(int.from_bytes(path.read_bytes(), "little") for path in folder.iterdir())
        if ran >= tasks:
            return ran, time.monotonic(), processes.cpu_seconds(pid)
        if time.monotonic() > deadline or not processes.alive(pid):
            raise RuntimeError(f"only {ran} of {tasks} tasks have run")
        time.sleep(0.005)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for family in ("celeriac", "celery"):
        parser.add_argument(f"--{family}", type=Path, help=f"the interpreter of {family}; left out unless given")
    parser.add_argument("--pools", default="asyncio,gevent,threads", help="pools to measure")
    options = parser.parse_args()
    pythons = {"celeriac": options.celeriac, "celery": options.celery}
    with tempfile.TemporaryDirectory() as scratch, servers.redis_server(Path(scratch)) as redis:
        folder = Path(scratch, "counters")
        folder.mkdir()
        print(f"{'':24}{'tasks/s':>10}{'CPU us/task':>14}{'PSS MB':>9}")
        for row in ROWS:
            python = pythons[row.family]
            if python is not None and row.pool in options.pools.split(","):
                found = measure(row, python.absolute(), redis, folder)
                name = f"{row.family} -P {row.pool}"
                print(
                    f"{name:24}{found['tasks/s']:10.0f}{found['CPU us/task']:14.0f}{found['PSS MB']:9.0f}", flush=True
                )


if __name__ == "__main__":
    main()
