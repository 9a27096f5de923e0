"""Apps for unit tests: each one alone, in a directory of its own, deaf to the environment."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import celeriac
from celeriac import Celery, _state
from celeriac.exceptions import Ignore, Reject

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("CELERY_", "CELERIAC_")):
            monkeypatch.delenv(name)
    # Programs that a test starts find the package from any directory.
    monkeypatch.setenv("PYTHONPATH", str(Path(celeriac.__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    on_finalize = list(_state._on_finalize)
    yield
    _state._on_finalize[:] = on_finalize
    _state.set_current_app(None)
    _state.set_default_app(None)


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app on the embedded broker, in this test's own directory."""
    with Celery("unit") as app:
        yield app


def signal_once_told(number: int) -> threading.Event:
    """Sends this process a signal a moment after the event is set."""
    told = threading.Event()

    def send() -> None:
        if told.wait(30):
            time.sleep(0.005)  # the test is about a wait; right without it too
            os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
    return told


@pytest.fixture
def golden() -> Callable[[str], Any]:
    """Reads a file of what Celery wrote."""

    def read(name: str) -> Any:
        return json.loads((GOLDEN / f"{name}.json").read_text())

    return read


@pytest.fixture
def register() -> Callable[[Celery], Any]:
    """Declares the tasks that the golden messages were sent with."""
    return declare_tasks


def declare_tasks(app: Celery) -> Any:
    """Declares the tasks in an app; gives them by their short names."""

    @app.task(name="demo.add")
    def add(x, y):
        return x + y

    @app.task(name="demo.echo")
    def echo(*args, **kwargs):
        return [list(args), kwargs]

    @app.task(name="demo.callback")
    def callback(value):
        return value

    @app.task(name="demo.errback_old")
    def errback_old(task_id):
        return task_id

    @app.task(name="demo.errback_new")
    def errback_new(request, exc, traceback):
        return None

    @app.task(name="demo.boom")
    def boom(*_):
        raise ValueError("bad value", 42)

    @app.task(name="demo.quiet", ignore_result=True)
    def quiet():
        return "nobody sees this"

    @app.task(name="demo.retry_now", bind=True, max_retries=3, default_retry_delay=0)
    def retry_now(self):
        if self.request.retries < 2:
            raise self.retry(exc=ValueError("not yet"), countdown=0.2)
        return self.request.retries

    @app.task(name="demo.retry_later", bind=True, max_retries=3)
    def retry_later(self, x, key=None):
        raise self.retry(exc=ValueError("again"), countdown=3600)

    @app.task(name="demo.retry_exhausted", bind=True, max_retries=0)
    def retry_exhausted(self, with_exc):
        raise self.retry(exc=ValueError("final") if with_exc else None)

    @app.task(name="demo.ignored", bind=True)
    def ignored(self):
        self.update_state(state="CUSTOM", meta={"kept": True})
        raise Ignore

    @app.task(name="demo.rejected")
    def rejected():
        raise Reject("no thanks", requeue=False)

    @app.task(name="demo.sleep")
    def sleep(seconds):
        return seconds

    @app.task(name="demo.unserializable")
    def unserializable():
        return object()

    return SimpleNamespace(**{name.removeprefix("demo."): task for name, task in app.tasks.items()})
