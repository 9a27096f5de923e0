"""Starts, watches and kills real workers for the fault tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent


def until(condition, seconds: float, what: str):
    """Waits for `condition()` to be true and gives its value; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


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
    """One store, one log, and the workers started on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = f"sqlite:///{folder}/queue.db"
        self.log = folder / "runs.log"
        self.log.touch()
        self.env = {
            **os.environ,
            "FAULT_STORE": self.store,
            "FAULT_LOG": str(self.log),
            "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
        }
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, *options: str, name: str = "w1", setting: str | None = None) -> subprocess.Popen[bytes]:
        """Starts a worker and waits until it says that it is ready."""
        output = self.folder / f"{name}-{len(self.workers)}.log"
        command = [
            sys.executable,
            "-m",
            "celeriac",
            "-A",
            "fault_app",
            "worker",
            "-n",
            f"{name}@%h",
            "-l",
            "INFO",
            *options,
        ]
        with output.open("wb") as sink:
            worker = subprocess.Popen(command, env=self.env, stdout=sink, stderr=subprocess.STDOUT, cwd=self.folder)
        self.workers.append(worker)
        worker.output = output  # type: ignore[attr-defined]
        until(lambda: b"ready" in output.read_bytes() or worker.poll() is not None, 30, f"worker ready, see {output}")
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
            what, number, _pid = line.split()
            (begun if what == "begin" else ended)[int(number)] += 1
        return begun, ended

    def close(self) -> None:
        """Kills what still runs."""
        for worker in self.workers:
            if worker.poll() is None:
                self.kill_all(worker)
