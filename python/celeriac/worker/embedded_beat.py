"""Processes beside a worker, which are started again when they die: `-B` is a beat, `--outbox` a relay."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING

from celeriac.exceptions import ImproperlyConfigured
from celeriac.worker.setup import ENVIRONMENT_KEY

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.worker.setup import Setup

__all__ = ["Companion", "EmbeddedBeat", "EmbeddedRelay"]

logger = logging.getLogger("celery.worker")

#: Seconds before one that ended is started again: at first, and at the most.
PAUSE_SECONDS = (1.0, 60.0)
#: Seconds after which one that ran is taken for healthy.
HEALTHY_SECONDS = 60.0
#: Seconds that it has to end in.
END_SECONDS = 5.0


class Companion:
    """Keeps a process running.

    Started after the fork server, so that no thread of ours is there when that is forked. The process is one of the
    same program, not a fork of this one, which has the engine's threads by then.

    Args:
        what: Its name in the log.
        module: What it runs.
        setup: How it makes the app; goes by way of the environment, since there may be passwords in it.
        options: What else it has to know.
    """

    def __init__(self, what: str, module: str, setup: Setup, options: dict[str, str | None]) -> None:
        self._what, self._module = what, module
        self._environment = {**os.environ, ENVIRONMENT_KEY: json.dumps(asdict(setup))}
        self._options = json.dumps(options)
        # Set by `stop`; read by the keeper.
        self._stopping = threading.Event()
        # Written by the keeper under the lock; read by `stop`.
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep, name=f"celeriac-{what}-keeper", daemon=True)

    def start(self) -> None:
        """Starts it; returns at once."""
        self._keeper.start()

    def stop(self) -> None:
        """Asks it to end; returns at once. A beat gives its lease back, so that another one takes over."""
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()

    def join(self) -> None:
        """Waits for its end; ends it when it takes too long."""
        self.stop()
        self._keeper.join(END_SECONDS)
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
        self._keeper.join(END_SECONDS)

    def _keep(self) -> None:
        # The kernel ends the process with the thread that started it: so this one starts it, and outlives it.
        pause = PAUSE_SECONDS[0]
        command = [sys.executable, "-m", self._module, str(os.getpid()), self._options]
        while not self._stopping.is_set():
            with self._lock:
                process = self._process = subprocess.Popen(  # noqa: S603 -- a module of ours
                    command, env=self._environment, stdin=subprocess.DEVNULL
                )
            if self._stopping.is_set():
                process.terminate()
            try:
                code = process.wait(HEALTHY_SECONDS)
            except subprocess.TimeoutExpired:
                pause = PAUSE_SECONDS[0]
                code = process.wait()
            if self._stopping.is_set():
                return
            logger.error(
                "%s (process %d) ended with code %d; starting it again in %g s", self._what, process.pid, code, pause
            )
            self._stopping.wait(pause)
            pause = min(2 * pause, PAUSE_SECONDS[1])


class EmbeddedBeat(Companion):
    """A beat."""

    def __init__(self, app: Celery, setup: Setup, schedule: str | None, scheduler: str | None) -> None:
        if app.broker_url_effective.startswith("memory:"):
            raise ImproperlyConfigured(
                "-B runs beat in a process of its own, and memory:// lives in one process: name a broker that "
                "processes can share, such as sqlite:///"
            )
        super().__init__("beat", "celeriac.bin.embedded_beat", setup, {"schedule": schedule, "scheduler": scheduler})


class EmbeddedRelay(Companion):
    """What sends the outbox of SQLAlchemy (`outbox_url`)."""

    def __init__(self, app: Celery, setup: Setup) -> None:
        if app.broker_url_effective.startswith("memory:"):
            raise ImproperlyConfigured(
                "--outbox runs a relay in a process of its own, and memory:// lives in one process: name a broker that "
                "processes can share, such as sqlite:///"
            )
        from celeriac.app.outbox.relay import Relay

        # Whether it can be used shows here; it connects to nothing yet.
        Relay.of_url(app, app.conf.outbox_url).close()
        super().__init__("outbox", "celeriac.bin.embedded_relay", setup, {})
