"""What the demonstration starts around the application: a mail server and processes with logs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from aiosmtpd.controller import Controller

LOG_TAIL_LINES = 40
STOP_SECONDS = 20


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    """Waits for `condition`; raises `TimeoutError` with what `otherwise` says."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise())
        time.sleep(0.05)


class MailServer:
    """An SMTP server that keeps what it gets, and is too busy for the very first mail (451)."""

    def __init__(self) -> None:
        # Both are written by the server's thread and read by the main one; appending is atomic.
        self.mails: list[Message] = []
        self.refused = 0
        self.port = free_port()
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        """Takes one mail."""
        if not self.refused:
            self.refused += 1
            return "451 too busy, try again later"
        self.mails.append(message_from_bytes(envelope.content))
        return "250 taken"

    def addresses(self) -> list[str]:
        """Who got mail, once for each mail."""
        return [str(mail["To"]) for mail in self.mails]

    def attempts(self, address: str) -> int:
        """At which try the mail to `address` went out."""
        return next(int(mail["X-Attempt"]) for mail in self.mails if mail["To"] == address)

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()


class Processes:
    """Processes that are started together, watched, and stopped together."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder = folder
        self.logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._files: list[IO[bytes]] = []

    def start(self, name: str, module: list[str], environment: dict[str, str]) -> None:
        """Starts `python -m module...`, its output going to a log file."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = (self.logs / f"{name}.log").open("wb")
        self._files.append(log)
        self.running[name] = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=self.folder,
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def check(self) -> None:
        """Raises when one of them has ended by itself."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise RuntimeError(f"the {name} process ended with exit code {process.returncode}")

    def wait_for_port(self, port: int) -> None:
        """Waits until somebody answers there."""

        def answers() -> bool:
            self.check()
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        wait_until(answers, 30, lambda: f"nobody listens on port {port}")

    def stop_all(self) -> None:
        """Asks the worker to finish (SIGTERM: warm shutdown), which must end it with exit code 0."""
        worker = self.running["worker"]
        worker.terminate()
        if worker.wait(STOP_SECONDS) != 0:
            raise RuntimeError(f"the worker's exit code was {worker.returncode}")

    def log_tails(self) -> str:
        """The ends of all logs, for a failure's report."""
        tails = []
        for path in sorted(self.logs.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            tails.append("\n".join([f"--- {path}", *lines]))
        return "\n".join(tails)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        for process in self.running.values():
            with suppress(ProcessLookupError):
                process.terminate()
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            # Each was made the leader of a session: this takes its children too, if any is left.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for log in self._files:
            log.close()
