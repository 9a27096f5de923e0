"""Runs an example of `examples/patterns/` as a user would: a worker in one terminal, the program in another.

A test that takes `pattern` runs three times: on the embedded broker, on Redis, and on RabbitMQ with results in Redis.
To run on some of them only: `@pytest.mark.parametrize("kind", ["embedded"], indirect=True)`.

    def test_it_prints(pattern: Pattern) -> None:
        output = pattern.example("fire_and_forget")         # a worker, the program, a warm stop
        output = pattern.example("dead_letters", "-c", "1", arguments=["list"])

    def test_two_workers(pattern: Pattern) -> None:          # step by step
        first = pattern.start_worker("background_workers", "-Q", "fast")
        output = pattern.run("background_workers.py")
        first.stop()
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ..integration.conftest import WorkerProcess, wait_until
from ..servers.shared import Shared

__all__ = ["EXAMPLES", "KINDS", "Pattern", "wait_until"]

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "patterns"
KINDS = ("embedded", "redis", "rabbitmq")


class Pattern:
    """An empty folder, a broker and a result backend of its own, and the programs of one test."""

    def __init__(self, kind: str, folder: Path, broker: str, backend: str) -> None:
        self.kind = kind
        self.folder = folder
        self.broker = broker
        self.backend = backend
        clean = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CELERY", "CELERIAC", "APP", "FLASK", "DJANGO"))
        }
        #: Of every program; a test may add to it.
        self.environment: dict[str, str] = {
            **clean,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(EXAMPLES)]),
            "PYTHONUNBUFFERED": "1",
            "BROKER": broker,
            "RESULT_BACKEND": backend,
        }
        self.programs: list[WorkerProcess] = []

    def start(self, *command: str, until: str | None = None) -> WorkerProcess:
        """Starts `python ...` beside the test; `until`: a pattern in its stderr to wait for."""
        program = WorkerProcess([sys.executable, *command], self.folder, self.environment)
        self.programs.append(program)
        if until is not None:
            program.wait_for(until)
        return program

    def start_worker(self, name: str, *options: str) -> WorkerProcess:
        """Starts `celeriac -A NAME worker ...`, and waits until it is ready."""
        return self.start("-m", "celeriac", "-A", name, "worker", "-l", "INFO", *options, until=r" ready\.$")

    def run(self, *command: str, seconds: float = 60.0, code: int = 0) -> str:
        """Runs `python ...` to its end; what it printed. A first word such as `NAME.py` is taken from the examples."""
        first, *rest = command
        if first.endswith(".py") and not Path(first).is_absolute():
            first = str(EXAMPLES / first)
        try:
            done = subprocess.run(
                [sys.executable, first, *rest],
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(f"{first} did not end in {seconds:g} s\n{_text(exc.stdout)}\n{self.logs}") from None
        assert done.returncode == code, (
            f"{first} ended with {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs}"
        )
        return done.stdout

    def celeriac(self, *arguments: str, code: int = 0) -> str:
        """Runs `celeriac ...`; what it printed."""
        return self.run("-m", "celeriac", *arguments, code=code)

    def example(self, name: str, *worker_options: str, arguments: Sequence[str] = (), seconds: float = 60.0) -> str:
        """Starts a worker, runs `python NAME.py` with these arguments, stops the worker warm; what was printed."""
        worker = self.start_worker(name, *worker_options)
        output = self.run(f"{name}.py", *arguments, seconds=seconds)
        code = worker.stop()
        assert code == 0, f"the worker ended with {code}\n{worker.log}"
        return output

    @property
    def logs(self) -> str:
        """What workers and other programs have logged."""
        return "\n".join(program.log for program in self.programs)

    def close(self) -> None:
        for program in self.programs:
            program.kill()


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of broker."""
    name: str = request.param
    return name


@pytest.fixture
def pattern(kind: str, tmp_path: Path, shared: Shared) -> Iterator[Pattern]:
    """A place to run an example in; everything that it has started ends with the test."""
    if kind == "embedded":
        broker = backend = f"sqlite:///{tmp_path / 'celeriac.db'}"
    else:
        backend = shared.redis()
        broker = backend if kind == "redis" else shared.rabbitmq()
    made = Pattern(kind, tmp_path, broker, backend)
    yield made
    made.close()
