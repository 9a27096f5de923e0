"""A real worker on a SQLite file of its own, started as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from celeriac.app.base import Celery

#: How long anything may take that takes milliseconds. Only a failing test waits that long.
PATIENCE = 30.0
PYTHON_PATH = str(Path(__file__).parents[3] / "python")


def wait_until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Waits for something to be true, and gives it."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still not: {what}")
        time.sleep(0.005)


def lives(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children_of(pid: int) -> list[int]:
    """Processes that this one started, and theirs."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == pid:
                found += [int(entry.name), *children_of(int(entry.name))]
    return found


class WorkerProcess:
    """A worker that runs. Its log is collected by a thread of the test."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        # Appended by the reader alone; the test looks at it.
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, count: int = 1) -> None:
        """Waits until that many lines match."""
        compiled = re.compile(pattern)

        def there() -> bool:
            if sum(1 for line in list(self.lines) if compiled.search(line)) >= count:
                return True
            if self.process.poll() is not None and not self._reader.is_alive():
                raise AssertionError(f"the worker ended ({self.process.returncode}) without {pattern!r}:\n{self.log}")
            return False

        try:
            wait_until(there, f"{pattern!r} in the log")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.log}") from None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Waits for the end, and gives the exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not end:\n{self.log}") from None
        self._reader.join(5)
        return code

    def stop(self) -> int:
        """Warm."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stderr is not None:
            self._reader.join(5)
            self.process.stderr.close()


class Project:
    """A folder with an app, its database, and workers."""

    def __init__(self, folder: Path, broker: str | None = None, backend: str | None = None) -> None:
        self.folder = folder
        self.url = broker or f"sqlite:///{folder / 'queue.db'}"
        self.backend = backend or self.url
        self.client = Celery("client", broker=self.url, backend=self.backend, set_as_current=False)
        self.workers: list[WorkerProcess] = []

    def write(self, text: str, **settings: Any) -> None:
        """Writes the app's module; `app` is there already."""
        head = f"""
            import asyncio, os, signal, sys, time
            from pathlib import Path
            from celeriac.app.base import Celery
            from celeriac import signals
            from celeriac.exceptions import Ignore, Reject, SoftTimeLimitExceeded

            app = Celery("tasks", broker={self.url!r}, backend={self.backend!r})
            app.conf.update({settings!r})
            here = Path({str(self.folder)!r})

            def mark(name, text="x"):
                with open(here / name, "a") as file:
                    file.write(text)
            """
        (self.folder / "tasks.py").write_text(dedent(head) + dedent(text))

    def start(self, *options: str, ready: bool = True, app: str | None = "tasks") -> WorkerProcess:
        """Starts a worker, and waits until it is ready."""
        command = [sys.executable, "-m", "celeriac", *(["-A", app] if app else []), "worker", "-l", "INFO", *options]
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("CELERY", "CELERIAC", "APP"))
        }
        environment["PYTHONPATH"] = PYTHON_PATH
        worker = WorkerProcess(command, self.folder, environment)
        self.workers.append(worker)
        if ready:
            worker.wait_for(r" ready\.$")
        return worker

    def send(self, name: str, *args: Any, **options: Any) -> Any:
        """Sends a task by name."""
        return self.client.send_task(name, args, **options)

    def marks(self, name: str) -> str:
        """What tasks have written into a file."""
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def wait_for_mark(self, name: str, text: str = "x") -> str:
        """Waits until tasks have written that much."""
        found: str = wait_until(
            lambda: self.marks(name) if len(self.marks(name)) >= len(text) else "", f"{name} written"
        )
        return found

    def queue(self, name: str = "celery") -> dict[str, Any]:
        """Counts of a queue."""
        return next((queue for queue in self.client.client.queues() if queue["name"] == name), {})

    def state(self, task_id: str) -> str:
        """What is stored for a task."""
        state: str = self.client.AsyncResult(task_id).state
        return state

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.client.close()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    made.close()
