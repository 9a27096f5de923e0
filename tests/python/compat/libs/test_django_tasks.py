"""Django's own task framework on our workers, by its backport: no Celery, and no Celery app in the project."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ...servers.run import end, tied, until
from .sides import HERE, PATIENCE, ROOT

SITE = HERE / "django_tasks_site"
#: Such as one with Django 6, by hand: the backport is for Python 3.11.
PYTHON = os.environ.get("DJANGO_TASKS_PYTHON", str(ROOT / ".venv-libs/bin/python"))


class Site:
    """The project in a folder of its own."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.folder = folder
        self.log = folder / "worker.log"
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith(("CELERY", "CELERIAC", "DJANGO"))
        }
        self.environment = {
            **clean,
            "PYTHONPATH": f"{SITE}:{ROOT / 'python'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SETTINGS_MODULE": "settings",
            "SITE_FOLDER": str(folder),
            "SITE_BROKER": broker,
        }
        self.processes: list[subprocess.Popen[Any]] = []

    def client(self, *arguments: str) -> Any:
        done = subprocess.run(
            [PYTHON, str(SITE / "client.py"), *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        logged = self.log.read_text() if self.log.exists() else ""
        assert done.returncode == 0, done.stderr + done.stdout + logged
        return json.loads(done.stdout.strip().splitlines()[-1])

    def worker(self) -> None:
        command = [PYTHON, "-m", "celeriac", "-A", "celeriac.django", "worker", "-c", "1", "-n", "w@host", "-l", "INFO"]
        with self.log.open("wb") as sink:
            process = tied(
                [*command, "-Q", "celery,mail"], env=self.environment, cwd=self.folder, stdout=sink, stderr=sink
            )
        self.processes.append(process)
        until(lambda: " ready." in self.log.read_text() or process.poll() is not None, PATIENCE, "the worker is ready")
        assert process.poll() is None, self.log.read_text()


@pytest.fixture(params=["embedded", "redis"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    broker = f"sqlite:///{tmp_path}/queue.db" if request.param == "embedded" else request.getfixturevalue("redis_url")
    made = Site(tmp_path, broker)
    yield made
    for process in made.processes:
        end(process, hard=True)


def test_tasks_of_djangos_framework_run_on_our_workers(site: Site) -> None:
    before = site.client("prepare")
    site.worker()

    after = site.client("check", json.dumps(before.pop("ids")))

    assert before == {
        "enqueued": 4,
        "waits": ["READY", "READY", True],
        "in the transaction": True,
        "committed": True,
        "rolled back": True,
        "never sent": True,
        "unknown queue": True,
    }
    assert after == {
        "waits": {"sum": 2},
        "held": {"sum": 3},
        "add": {"sum": 5},
        "arguments": [[2], {"y": 3}],
        "times": True,
        "workers": ["w@host"],
        "context": True,
        "failed": ["FAILED", "ValueError", True],
        "coroutine": "slept",
        "async": {"sum": 21},
        "as Celery has it": {"sum": 5},
    }
    assert (site.folder / "ran").read_text().split() == ["100", "0", "-100"]
    assert "jobs.tasks.add" in site.log.read_text()


def test_tasks_are_shown_by_djangos_views_under_wsgi_and_asgi(tmp_path: Path) -> None:
    saw = Site(tmp_path, f"sqlite:///{tmp_path}/queue.db").client("views")

    assert saw == {
        "progress": 1,
        "stranger": 403,
        "methods": [405, 405],
        "without a token": 403,
        "cancel": [202, 202],
        "threads": ["text/event-stream; charset=utf-8", ["PROGRESS", "SUCCESS", "end"]],
        "loop": ["SUCCESS", "STARTED", "FAILURE", "end"],
    }
