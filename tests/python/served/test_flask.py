"""The application of `examples/flask_celery`, which says `import celery`: by HTTP, in the ways that its README names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..servers.run import end, free_port, tied, until
from ..servers.shared import Shared

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples/flask_celery"
CELERY_PYTHON = str(ROOT / ".venv-celery/bin/python")
PATIENCE = 40
WEB = ("-m", "flask", "--app", "task_app", "run", "--port")
WORKER = ("-m", "celeriac", "-A", "make_celery", "worker", "-c", "2", "-l", "INFO")
#: How: Python, what is before the web process' command, environment.
WAYS: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "served": (CELERY_PYTHON, (), {}),
    "in Celery's place": (sys.executable, ("-m", "celeriac.compat"), {"CELERIAC_COMPAT": "1"}),
    "ported": (sys.executable, (), {}),
}


class Site:
    """The web process and the worker."""

    def __init__(self, way: str, folder: Path, broker: str, backend: str) -> None:
        python, before, own = WAYS[way]
        code = folder / "code"
        shutil.copytree(EXAMPLE, code, ignore=shutil.ignore_patterns("__pycache__"))
        if way == "ported":
            for file in (code / "task_app").glob("*.py"):
                file.write_text(file.read_text().replace("from celery", "from celeriac"))
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("CELERY", "CELERIAC", "FLASK"))}
        environment = {
            **clean,
            **own,
            "PYTHONPATH": str(ROOT / "python"),
            "PYTHONWARNINGS": "ignore",
            "FLASK_CELERY__broker_url": broker,
            "FLASK_CELERY__result_backend": backend,
            "FLASK_GREETING": "good day",
        }
        self.port = free_port()
        self.folder = folder
        self.processes = [
            self._start(name, [python, *command], code, environment)
            for name, command in (("web", (*before, *WEB, str(self.port))), ("worker", WORKER))
        ]
        until(lambda: "Running on" in self.log("web") or self._dead(), PATIENCE, "the web process listens")
        until(lambda: " ready." in self.log("worker") or self._dead(), PATIENCE, "the worker is ready")
        assert not self._dead(), self.log("web") + self.log("worker")

    def _start(self, name: str, command: list[str], code: Path, environment: dict[str, str]) -> subprocess.Popen[Any]:
        with (self.folder / f"{name}.log").open("wb") as output:
            return tied(command, cwd=code, env=environment, stdout=output, stderr=output)

    def _dead(self) -> bool:
        return any(process.poll() is not None for process in self.processes)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def ask(self, path: str, **form: object) -> Any:
        """A request: POST with a form, else GET."""
        data = urllib.parse.urlencode(form).encode() if form else None
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=PATIENCE) as response:
            body = response.read()
        return json.loads(body) if body[:1] in b"{[" else body.decode()

    def begin(self, task: str, **form: object) -> str:
        found: str = self.ask(f"/tasks/{task}", **form)["result_id"]
        return found

    def result(self, task_id: str) -> Any:
        return self.ask(f"/tasks/result/{task_id}")

    def outcome(self, task_id: str) -> Any:
        until(lambda: self.result(task_id)["ready"], PATIENCE, f"the result over HTTP\n{self.log('worker')}")
        return self.result(task_id)

    def stop(self) -> None:
        for process in self.processes:
            end(process, hard=True)


@pytest.fixture(params=WAYS)
def site(request: pytest.FixtureRequest, shared: Shared, tmp_path: Path) -> Iterator[Site]:
    site = Site(request.param, tmp_path, shared.redis(), shared.redis())
    yield site
    site.stop()


def test_a_flask_application_written_for_celery_works_over_http(site: Site) -> None:
    assert "Background tasks" in site.ask("/")
    steps = site.begin("process", total=5)
    seen = until(lambda: site.result(steps)["progress"], PATIENCE, "progress")
    assert seen["total"] == 5

    added = site.outcome(site.begin("add", a=2, b=3))
    assert (added["successful"], added["value"], added["state"]) == (True, 5, "SUCCESS")
    # The task reads the application's configuration, in its context.
    assert site.outcome(site.begin("greet", name="Ada"))["value"] == "good day Ada"
    failed = site.outcome(site.begin("divide", a=1, b=0))
    assert (failed["successful"], failed["value"]) == (False, None)
    assert failed["error"] == "ZeroDivisionError('division by zero')"
    assert site.outcome(steps)["value"] == {"current": 5, "total": 5}
    # Its result is ignored, as the settings say for all tasks: nobody will ever know.
    silent = site.begin("block", a=1)
    until(lambda: f"{silent}] succeeded" in site.log("worker"), PATIENCE, "the task that is silent ran")
    assert site.result(silent)["state"] == "PENDING"
