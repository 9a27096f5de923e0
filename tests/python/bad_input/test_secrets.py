"""A password in a URL is shown nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from celeriac import Celery
from celeriac.utils.urls import without_password

from ..integration.conftest import PYTHON_PATH

SECRET = "hunter2"
URLS = [
    f"redis://user:{SECRET}@host/0",
    f"redis://:{SECRET}@host:1/0;redis://:{SECRET}@other:2/0",
    f"redis://user:a/b@{SECRET}@host/0",
    f"redis://user:{SECRET}@host:noport/0",
    f"redis://user:{SECRET}@[::1",
    f"amqp://user:{SECRET}@host//",
    f"sqlite://user:{SECRET}@host/queue.db",
    f"nosuch://user:{SECRET}@host/",
    f"user:{SECRET}@host",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("place", ["broker", "backend"])
def test_errors_and_reports_show_no_password(url: str, place: str) -> None:
    urls = {"broker": "memory://", place: url}
    app = Celery("secret", set_as_current=False, **urls)
    texts = [repr(app), repr(app.conf), app.conf.humanize(with_defaults=False, censored=True)]

    for call in (lambda: app.send_task("t", retry=False), lambda: app.AsyncResult("i").state, app.bugreport):
        try:
            texts.append(repr(call()))
        except Exception as exc:
            texts += [repr(exc), "".join(traceback.format_exception(exc))]

    assert len(texts) > 5
    assert [text for text in texts if SECRET in text] == []


def output(arguments: list[str], folder: Path) -> str:
    """What a command prints; a worker that waits for its result backend is ended."""
    command = [sys.executable, "-m", "celeriac", *arguments]
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        return process.communicate(timeout=5 if "worker" in arguments else 60)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate(timeout=30)[0]


@pytest.mark.parametrize("url", URLS)
def test_commands_show_no_password(url: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "from celeriac import Celery, task\n"
        # A worker that finds no broker gives up at once.
        "app = Celery('tasks', broker_connection_retry_on_startup=False)\n@task\ndef one():\n    return 1\n"
    )
    for options in (["-b", url], ["--result-backend", url]):
        for command in (["worker"], ["report"], ["call", "one"], ["result", "--timeout", "0", "i"]):
            shown = output(["-A", "tasks", *options, *command], tmp_path)
            assert SECRET not in shown, command
            assert "Traceback" not in shown, shown


def test_what_is_no_password_stays() -> None:
    for url in ("sqlite:////data/queue.db", "memory://", "redis://host:6379/0", "redis://user@host/0"):
        assert without_password(url) == url
