"""Starts, watches and kills real workers for the fault tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.python.servers.run import tied, until

__all__ = ["Fleet", "descendants", "is_alive", "rss_kib", "until"]

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PYTHONS = {"celeriac": sys.executable, "celery": str(ROOT / ".venv-celery/bin/python")}


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, nearest first, read from /proc."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop(0)
        try:
            children = [
                int(c) for t in Path(f"/proc/{parent}/task").iterdir() for c in (t / "children").read_text().split()
            ]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += children
        waiting += children
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def rss_kib(pid: int) -> int:
    """Resident memory of a process, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"no VmRSS for {pid}")


class Fleet:
    """One broker, one backend, one log, and the workers started on them."""

    def __init__(self, folder: Path, broker: str | None = None, backend: str | None = None, **settings: Any) -> None:
        self.folder = folder
        self.broker = broker or f"sqlite:///{folder}/queue.db"
        self.backend = backend or self.broker
        self.settings = settings
        self.log = folder / "runs.log"
        self.log.touch()
        self.env = {
            **os.environ,
            **self.variables("celeriac"),
            "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
        }
        self.workers: list[subprocess.Popen[bytes]] = []

    def variables(self, library: str) -> dict[str, str]:
        """What the application reads."""
        return {
            "FAULT_BROKER": self.broker,
            "FAULT_BACKEND": self.backend,
            "FAULT_LOG": str(self.log),
            "FAULT_LIBRARY": library,
            "FAULT_SETTINGS": json.dumps(self.settings),
        }

    def start(
        self,
        *options: str,
        name: str = "w1",
        setting: str | None = None,
        library: str = "celeriac",
        broker: str | None = None,
        backend: str | None = None,
        app: str = "fault_app",
    ) -> subprocess.Popen[bytes]:
        """Starts a worker and waits until it says that it is ready.

        `broker` and `backend` are other ways to the same places, such as a proxy.
        """
        output = self.folder / f"{name}-{len(self.workers)}.log"
        command = [PYTHONS[library], "-m", library, "-A", app, "worker", "-n", f"{name}@%h", "-l", "INFO"]
        environment = {**self.env, "FAULT_LIBRARY": library}
        if library == "celery":
            environment["PYTHONPATH"] = str(HERE)
        if broker:
            environment["FAULT_BROKER"] = broker
        if backend:
            environment["FAULT_BACKEND"] = backend
        with output.open("wb") as sink:
            worker = tied([*command, *options], env=environment, stdout=sink, stderr=subprocess.STDOUT, cwd=self.folder)
        self.workers.append(worker)
        worker.output = output  # type: ignore[attr-defined]
        until(lambda: b" ready" in output.read_bytes() or worker.poll() is not None, 30, f"worker ready, see {output}")
        assert worker.poll() is None, output.read_text()
        return worker

    def pool(self, worker: subprocess.Popen[bytes]) -> list[int]:
        """Pids of the children that run tasks: the grandchildren, below the fork server."""
        server = descendants(worker.pid)[:1]
        return descendants(server[0]) if server else []

    def kill_all(self, worker: subprocess.Popen[bytes]) -> None:
        """SIGKILL to the whole worker at once, supervisor first."""
        tree = descendants(worker.pid)
        for pid in [worker.pid, *tree]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        worker.wait(10)

    def runs(self) -> tuple[Counter[int], Counter[int]]:
        """How often each number has begun and ended."""
        begun: Counter[int] = Counter()
        ended: Counter[int] = Counter()
        for line in self.log.read_text().splitlines():
            what, number, *_ = line.split()
            (begun if what == "begin" else ended)[int(number)] += 1
        return begun, ended

    def begins(self) -> list[float]:
        """When tasks began, in seconds since 1970, in order."""
        lines = map(str.split, self.log.read_text().splitlines())
        return sorted(float(when) for what, _, _, when in lines if what == "begin")

    def close(self) -> None:
        """Kills what still runs."""
        for worker in self.workers:
            if worker.poll() is None:
                self.kill_all(worker)
