"""An application that notes every signal: run by Celery's worker and by ours, and by a client of each."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

library_name = os.environ["SIGNALS_LIBRARY"]
library = importlib.import_module(library_name)
signals = importlib.import_module(f"{library_name}.signals")
exceptions = importlib.import_module(f"{library_name}.exceptions")
folder = Path(os.environ["SIGNALS_FOLDER"])

#: Process that imported this: a client, or a worker's own; children of it are forked.
HERE = os.getpid()
NAMES = [
    "before_task_publish", "after_task_publish", "task_sent",
    "task_received", "task_prerun", "task_postrun", "task_success", "task_retry", "task_failure", "task_revoked",
    "task_unknown", "task_rejected",
    "celeryd_init", "celeryd_after_setup", "import_modules", "worker_init", "worker_process_init",
    "worker_process_shutdown", "worker_ready", "worker_shutting_down", "worker_shutdown",
    "after_setup_logger", "after_setup_task_logger",
]  # fmt: skip
if os.environ.get("SIGNALS_LOGGING"):
    NAMES.append("setup_logging")


def sender_kind(sender: Any) -> str:
    """A sender in words that are the same in both libraries."""
    if sender is None or isinstance(sender, str):
        return repr(sender)
    if hasattr(sender, "apply_async"):
        return f"task {sender.name}"
    kinds = {"Worker": "worker", "WorkController": "worker", "Celery": "app"}
    return kinds.get(type(sender).__name__, type(sender).__name__.lower())


def facts(given: dict[str, Any]) -> dict[str, Any]:
    """What must be equal, of arguments whose value can be."""
    plain = {
        name: value
        for name, value in given.items()
        if name
        in {
            "state",
            "sig",
            "how",
            "exitcode",
            "terminated",
            "expired",
            "signum",
            "name",
            "retval",
            "result",
            "args",
            "kwargs",
        }
    }
    request = given.get("request")
    if request is not None:
        plain["request"] = [
            request.id,
            getattr(request, "task", None) and (getattr(request, "name", None) or request.task),
        ]
        plain["arguments"] = [list(request.args or ()), dict(request.kwargs or {})]
    for name in ("task_id", "id"):
        if name in given:
            plain["id"] = given[name]
    return plain


def note(name: str) -> Any:
    def receiver(sender: Any = None, signal: Any = None, **given: Any) -> None:
        process = os.environ.get("SIGNALS_PROCESS") or ("main" if os.getpid() == HERE else "child")
        line = {
            "signal": name,
            "process": process,
            "sender": sender_kind(sender),
            "arguments": sorted(given),
            "facts": facts(given),
            "time": time.monotonic(),
        }
        with open(folder / "signals.log", "a") as log:
            log.write(json.dumps(line, default=repr) + "\n")

    return receiver


for _name in NAMES:
    getattr(signals, _name).connect(note(_name), weak=False)

app = library.Celery("signals_app", broker=os.environ["SIGNALS_URL"], backend=os.environ["SIGNALS_URL"])
app.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1)


@app.task(name="good")
def good(x: int, y: int = 1) -> int:
    return x + y


@app.task(name="bad")
def bad() -> None:
    raise ValueError("no")


@app.task(name="again", bind=True, max_retries=1)
def again(self: Any) -> str:
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return "done"


@app.task(name="rejects", acks_late=True)
def rejects() -> None:
    raise exceptions.Reject("no", requeue=False)


@app.task(name="ignores")
def ignores() -> None:
    raise exceptions.Ignore


@app.task(name="waits")
def waits() -> None:
    (folder / "waits").touch()
    time.sleep(60)


def scenario() -> None:
    """What the client does: each step waits for the one before."""
    assert good.apply_async((1,), {"y": 2}, task_id="good-1").get(timeout=30) == 3
    bad.apply_async(task_id="bad-1").get(timeout=30, propagate=False)
    assert again.apply_async(task_id="again-1").get(timeout=30) == "done"
    rejects.apply_async(task_id="rejects-1").get(timeout=30, propagate=False)
    ignores.apply_async(task_id="ignores-1")
    good.apply_async((1,), task_id="expired-1", expires=-10).get(timeout=30, propagate=False)
    app.send_task("nobody.knows", task_id="unknown-1").get(timeout=30, propagate=False)
    running = waits.apply_async(task_id="waits-1")
    deadline = time.monotonic() + 30
    while not (folder / "waits").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    app.control.revoke(running.id, terminate=True, signal="SIGKILL")
    running.get(timeout=30, propagate=False)
    assert good.apply_async((5,), task_id="good-2").get(timeout=60) == 6


if __name__ == "__main__":
    sys.modules["signals_app"] = sys.modules["__main__"]
    scenario()
