"""Runs the cases between any client and any worker, and makes what they saw comparable."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from ..servers.run import end, tied, until
from ..servers.shared import Shared

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CELERY = str(ROOT / ".venv-celery/bin/python")
#: `served` is an app that Celery itself has made, in a worker of ours.
PYTHONS = {"celeriac": sys.executable, "celery": CELERY, "served": CELERY}
SLOTS = 6


@dataclass
class Place:
    """A broker and a backend that nobody else uses."""

    broker: str
    backend: str
    settings: dict[str, Any] = field(default_factory=dict)

    def records(self, ids: list[str]) -> list[dict[str, Any] | None]:
        """What is stored for tasks, where it is stored."""
        if not self.backend.startswith("redis"):
            return []
        with redis.Redis.from_url(self.backend) as store:
            found = [store.get(f"celery-task-meta-{one}") for one in ids]
        return [json.loads(one) if one else None for one in found]


def redis_place(shared: Shared) -> Place:
    """Queues and results on one Redis, in two databases."""
    return Place(shared.redis(), shared.redis())


def rabbitmq_place(shared: Shared) -> Place:
    """Queues on RabbitMQ, results on Redis, and extended ones."""
    return Place(shared.rabbitmq(), shared.redis(), {"result_extended": True})


def rpc_place(shared: Shared) -> Place:
    """Queues on RabbitMQ, and results too."""
    return Place(shared.rabbitmq(), "rpc://")


class Side:
    """Clients and workers of one library at one place."""

    def __init__(self, library: str, place: Place, folder: Path) -> None:
        self.library = library
        self.folder = folder
        self.python = PYTHONS[library]
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("CELERY", "CELERIAC"))}
        self.environment = {
            **clean,
            "INTEROP_LIBRARY": "celery" if library == "served" else library,
            "INTEROP_BROKER": place.broker,
            "INTEROP_BACKEND": place.backend,
            "INTEROP_SETTINGS": json.dumps(place.settings),
            "INTEROP_FOLDER": str(folder),
            "PYTHONPATH": os.pathsep.join([str(HERE), *([str(ROOT / "python")] if library != "celery" else [])]),
            "PYTHONWARNINGS": "ignore",
            "C_FORCE_ROOT": "1",  # Celery refuses pickle as root otherwise
        }

    def worker(self, *options: str, name: str = "interop", app: str = "interop_app", **environment: str) -> Worker:
        """Starts a worker and waits until it is ready."""
        return Worker(self, name, app, options, environment)

    def client(self, *cases: str, script: str = "interop_client.py", seconds: float = 120, **environment: str) -> Any:
        """Runs a client to its end, and gives what it printed."""
        command = [self.python, str(HERE / script), *cases]
        errors = self.folder / f"client-{self.library}.stderr"
        with errors.open("w") as sink:
            done = subprocess.run(
                command,
                env={**self.environment, **environment},
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                timeout=seconds,
                check=False,
            )
        assert done.returncode == 0, errors.read_text()
        return json.loads(done.stdout)


class Worker:
    """A worker process of one side."""

    def __init__(self, side: Side, name: str, app: str, options: tuple[str, ...], environment: dict[str, str]) -> None:
        self.output = side.folder / f"{name}-{side.library}.log"
        program = "celery" if side.library == "celery" else "celeriac"
        command = [side.python, "-m", program, "-A", app, "worker", "-n", f"{name}@host", "-l", "INFO", *options]
        with self.output.open("ab") as sink:
            self.process = tied(
                command,
                env={**side.environment, **environment},
                cwd=side.folder,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        until(lambda: " ready." in self.log or self.process.poll() is not None, 40, f"worker ready, see {self.output}")
        assert self.process.poll() is None, self.log

    @property
    def log(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self, *, hard: bool = False) -> None:
        """Warm, or `hard`."""
        end(self.process, hard=hard)


@dataclass(frozen=True)
class Play:
    """An application, and the cases that its clients run."""

    app: str = "interop_app"
    cases: str = "interop_cases"
    #: For clients and workers.
    environment: dict[str, str] = field(default_factory=dict)
    #: What may differ besides: rows as in `checks.DIFFERENCES`.
    meant: tuple[tuple[str, str, str, str, str], ...] = ()


INTEROP = Play()
#: Queues on RabbitMQ, which says of a message that it was given back and not by whom.
ON_RABBITMQ = Play(
    meant=(
        (
            ".*request.*|countdown|protocol_1",
            ".*",
            "celeriac|served",
            ".*/delivery_info/redelivered: expected false, seen true",
            "what was sent ahead is given back, so that others may have it, when the tasks before it turn out to be long",
        ),
    )
)


def battery(
    place: Place, *, client: str, worker: str, folder: Path, cases: tuple[str, ...] = (), play: Play = INTEROP
) -> dict[str, Any]:
    """What a client of one library sees of a worker of another, case by case."""
    folder.mkdir(parents=True, exist_ok=True)
    running = Side(worker, place, folder).worker("-c", str(SLOTS), app=play.app, **play.environment)
    try:
        seen = Side(client, place, folder).client(*cases, INTEROP_CASES=play.cases, **play.environment)
    finally:
        running.stop(hard=True)
    for case in seen.values():
        if "saw" in case:
            case["records"] = place.records(case["ids"])
    return {name: comparable(case) for name, case in seen.items()}


UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LIBRARY = re.compile(r"^(celeriac|celery|kombu|billiard)(\.\w+)*\.(?=[A-Z])")
#: Fields of a request that differ from run to run.
MOMENT = re.compile(r'"(eta|expires)": "20(2[6-9]|3\d)-[^"]+"')
NOW = re.compile(r"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")


def comparable(case: dict[str, Any]) -> dict[str, Any]:
    """The same with ids numbered, and without what differs from run to run."""
    if "failed" in case:
        return case
    for record in case["records"]:
        if record is not None:
            _tidy(record)
    text = json.dumps({"saw": case["saw"], "records": case["records"]}, sort_keys=True)
    for number, one in enumerate(case["ids"]):
        text = text.replace(one, f"<id {number}>")
    text = UUID.sub("<uuid>", text)
    text = MOMENT.sub(r'"\1": "<moment>"', text)
    text = re.sub(r"gen\d+@[^\"]+", "<origin>", text)
    tidy: dict[str, Any] = json.loads(text, parse_constant=str)  # NaN equals nothing, not even itself
    return tidy


def _tidy(record: dict[str, Any]) -> None:
    if record.get("date_done"):
        record["date_done"] = NOW.sub("<now>", record["date_done"])
    if record.get("traceback"):
        # The client's view has the whole shape; here it is enough that there is one, and how it ends.
        record["traceback"] = LIBRARY.sub("<library>.", record["traceback"].rstrip().splitlines()[-1])
    if record["status"] == "STARTED":
        record["result"]["pid"] = "<pid>"
