"""Publishes a task, runs a worker in a process of its own, reads the result. Run where the wheel is installed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from celeriac import Celery

app = Celery("smoke", broker="sqlite:///smoke.db", backend="sqlite:///smoke.db")


@app.task(name="smoke.add")
def add(x: int, y: int) -> int:
    return x + y


def main() -> None:
    pending = add.delay(2, 3)
    log = Path("worker.log")
    command = [sys.executable, "-m", "celeriac", "-A", "smoke", "worker", "-P", "solo", "-l", "WARNING"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as worker:
        try:
            answer = pending.get(timeout=60)
        finally:
            worker.send_signal(signal.SIGTERM)
            code = worker.wait(timeout=30)
    assert answer == 5, answer
    assert code == 0, f"the worker's exit code was {code}\n{log.read_text()}"


if __name__ == "__main__":
    main()
