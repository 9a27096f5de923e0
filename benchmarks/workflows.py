"""Wall time of a chord of 1,000 no-op parts and a chain of 100 steps on Redis: celeriac and Celery, in turns.

    python benchmarks/workflows.py --celeriac .venv/bin/python --celery .venv-celery/bin/python

Client and worker (two processes for tasks) run beside one another; the client is timed from building the workflow
to having its result. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import processes
import servers

HERE = Path(__file__).resolve().parent
WORKFLOWS = (("chord", 1000), ("chain", 100), ("chord", 10_000))
#: Celery is not asked for these: it would take minutes.
OURS_ALONE = {("chord", 10_000)}
READY_SECONDS = 60.0


def environment_of(family: str, redis: servers.Redis) -> dict[str, str]:
    """For client and worker of one library."""
    path = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH", ""), str(HERE / "apps")) if part)
    return {**os.environ, "PYTHONPATH": path, "BENCH_SYSTEM": family, "BENCH_URL": f"{redis.url}/0"}


@contextmanager
def worker(family: str, python: Path, redis: servers.Redis) -> Iterator[None]:
    """A worker with two processes, ready."""
    command = [python, "-m", family, "-A", "canvas_app", "worker", "-c", "2", "-l", "INFO"]
    environment = environment_of(family, redis)
    with tempfile.NamedTemporaryFile() as log:
        started = subprocess.Popen(
            command, env=environment, cwd=HERE / "apps", stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + READY_SECONDS
            while b" ready." not in Path(log.name).read_bytes():
                if time.monotonic() > deadline or started.poll() is not None:
                    raise RuntimeError(Path(log.name).read_text())
                time.sleep(0.05)
            yield
        finally:
            started.terminate()
            processes.end(started, 3)


def measure(family: str, python: Path, redis: servers.Redis) -> dict[tuple[str, int], dict[str, float]]:
    """Every workflow once."""
    redis.do("FLUSHALL")
    found = {}
    with worker(family, python, redis):
        for kind, size in WORKFLOWS:
            if family == "celery" and (kind, size) in OURS_ALONE:
                continue
            command = [python, HERE / "apps" / "canvas_app.py", kind, str(size)]
            done = subprocess.run(command, env=environment_of(family, redis), check=True, capture_output=True)
            found[kind, size] = json.loads(done.stdout)
    return found


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for family in ("celeriac", "celery"):
        parser.add_argument(f"--{family}", type=Path, help=f"the interpreter of {family}; left out unless given")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pythons = {"celeriac": options.celeriac, "celery": options.celery}
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch, servers.redis_server(Path(scratch)) as redis:
        for _ in range(options.rounds):
            for family, python in pythons.items():
                if python is not None:
                    for workflow, figures in measure(family, python.absolute(), redis).items():
                        found[*workflow, family].append(figures)
    print(f"{'':28}{'ms':>10}{'ms to send':>12}{'client CPU ms':>15}")
    for (kind, size, family), figures in sorted(found.items()):
        middle = {name: statistics.median(one[name] for one in figures) * 1e3 for name in figures[0]}
        print(
            f"{f'{kind} of {size}, {family}':28}"
            + "".join(f"{value:{width}.1f}" for value, width in zip(middle.values(), (10, 12, 15), strict=True))
        )
    for kind, size in WORKFLOWS:
        ours, theirs = (found.get((kind, size, family)) for family in pythons)
        if ours and theirs:
            ratio = statistics.median(one["s"] for one in theirs) / statistics.median(one["s"] for one in ours)
            print(f"{kind} of {size}: {ratio:.1f} times less")


if __name__ == "__main__":
    main()
