"""Runs one scenario with celeriac in Celery's place, and as a real Celery app that our worker serves.

Same files, same libraries, same Python. `LIBS_KINDS=celery` runs it with Celery alone: what has to be seen was seen so.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...servers.run import end, tied, until

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
#: Has the libraries, and with them the real Celery: nothing may fall through to it.
PYTHON = str(ROOT / ".venv-libs/bin/python")
#: Who is behind `import celery`, and who is the worker: celeriac both times; Celery and celeriac; Celery both times.
KINDS = tuple(os.environ.get("LIBS_KINDS", "celeriac,served").split(","))
PATIENCE = 40


class Side:
    """Programs of one scenario, with one of the two behind `import celery`."""

    def __init__(self, kind: str, folder: Path, broker: str, **environment: str) -> None:
        self.kind = kind
        self.folder = folder
        self.started: list[Program] = []
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith(("CELERY", "CELERIAC", "DJANGO"))
        }
        path = [str(HERE), *([str(ROOT / "python")] if kind != "celery" else [])]
        self.environment = {
            **clean,
            "LIBS_BROKER": broker,
            "LIBS_FOLDER": str(folder),
            "LIBS_KIND": kind,
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONWARNINGS": "ignore",
            "PYTHONDONTWRITEBYTECODE": "1",
            **({"CELERIAC_COMPAT": "1"} if kind == "celeriac" else {}),
            **environment,
        }

    def celery(self, *arguments: str) -> list[str]:
        """The command line of `celery ...`."""
        ours = self.kind == "celeriac" or (self.kind == "served" and "worker" in arguments)
        return [PYTHON, "-m", "celeriac" if ours else "celery", *arguments]

    def script(self, path: str, *arguments: str) -> list[str]:
        """The command line of `python path ...`."""
        through = ("-m", "celeriac.compat") if self.kind == "celeriac" else ()
        return [PYTHON, *through, path, *arguments]

    def start(self, name: str, command: list[str], ready: Callable[[str], bool] | None = None) -> Program:
        """Starts a program; waits until its log is as wanted."""
        program = Program(self, name, command)
        self.started.append(program)
        if ready is not None:
            until(
                lambda: ready(program.log) or program.process.poll() is not None, PATIENCE, f"ready: {program.output}"
            )
            assert program.process.poll() is None, program.log
        return program

    def worker(self, app: str, *options: str) -> Program:
        """Starts a worker and waits until it is ready."""
        command = self.celery("-A", app, "worker", "-n", "libs@host", "-l", "INFO", *options)
        return self.start("worker", command, lambda log: " ready." in log)

    def run(self, path: str, *arguments: str, seconds: float = 90) -> Any:
        """Runs a script to its end; the JSON of its last line, if it printed any."""
        errors = self.folder / "script.stderr"
        with errors.open("w") as sink:
            done = subprocess.run(
                self.script(path, *arguments),
                env=self.environment,
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                timeout=seconds,
                check=False,
            )
        logs = "".join(f"\n--- {program.name}\n{program.log[-5000:]}" for program in self.started)
        assert done.returncode == 0, errors.read_text() + done.stdout + logs
        lines = done.stdout.strip().splitlines()
        return json.loads(lines[-1]) if lines and lines[-1][:1] in "{[" else None

    def close(self) -> None:
        """Ends what still runs."""
        for program in reversed(self.started):
            end(program.process, hard=True)


class Program:
    """A process, and what it has written."""

    def __init__(self, side: Side, name: str, command: list[str]) -> None:
        self.name = name
        self.output = side.folder / f"{name}-{len(side.started)}.log"
        with self.output.open("wb") as sink:
            self.process = tied(
                command, env=side.environment, cwd=side.folder, stdout=sink, stderr=sink, start_new_session=True
            )

    @property
    def log(self) -> str:
        return self.output.read_text(errors="replace")

    def says(self, text: str) -> None:
        """Waits for words in the log."""
        until(lambda: text in self.log or self.process.poll() is not None, PATIENCE, f"{text!r} in {self.output}")
        assert text in self.log, self.log

    def stop(self) -> None:
        """Asks it to end, and waits."""
        end(self.process)
