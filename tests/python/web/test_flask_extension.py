"""`celeriac.flask.Celeriac`: settings, contexts, several applications, and the command."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import flask
import pytest

from celeriac import Celery, _state, shared_task
from celeriac.app.find_app import find_app
from celeriac.exceptions import ImproperlyConfigured
from celeriac.flask import Celeriac

from ..integration.conftest import WorkerProcess
from .conftest import ROOT


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    on_finalize = list(_state._on_finalize)
    yield
    _state._on_finalize[:] = on_finalize
    _state.set_current_app(None)
    _state.set_default_app(None)


def make(name: str = "shop", **config: Any) -> flask.Flask:
    app = flask.Flask(name)
    app.config.update(config)
    return app


def test_settings_come_from_the_prefix_and_from_the_mapping_when_they_are_asked_for() -> None:
    app = make(CELERY={"broker_url": "memory://mapping", "task_default_queue": "shop"}, CELERIAC_TIMEZONE="Europe/Oslo")
    celery_app = Celeriac().init_app(app)
    app.config["CELERIAC_BROKER_URL"] = "memory://prefix"

    assert app.extensions["celeriac"] is app.extensions["celery"] is celery_app
    assert celery_app.main == "shop"
    assert celery_app.conf.broker_url == "memory://prefix"
    assert celery_app.conf.task_default_queue == "shop"
    assert str(celery_app.timezone) == "Europe/Oslo"


def test_defaults_of_the_extension_lose_against_the_configuration() -> None:
    app = make(CELERIAC_TASK_DEFAULT_QUEUE="theirs")

    celery_app = Celeriac(task_default_queue="ours", broker_url="memory://x").init_app(app)

    assert (celery_app.conf.task_default_queue, celery_app.conf.broker_url) == ("theirs", "memory://x")


def test_a_name_that_is_no_setting_is_an_error_that_says_which_is_near() -> None:
    celery_app = Celeriac().init_app(make(CELERIAC_BROKR_URL="memory://x"))

    with pytest.raises(ImproperlyConfigured, match="is it CELERIAC_BROKER_URL"):
        celery_app.conf.get("broker_url")


def test_an_application_is_set_up_once_and_a_celery_app_belongs_to_one() -> None:
    app, mine = make(), Celery("mine", broker="memory://", set_as_current=False)
    Celeriac(app, celery_app=mine)

    with pytest.raises(RuntimeError, match="before"):
        Celeriac(app)
    with pytest.raises(RuntimeError, match="belongs to the Flask application 'shop'"):
        Celeriac(make("other"), celery_app=mine)


def test_tasks_of_an_app_that_was_there_run_in_the_context() -> None:
    mine = Celery("mine", broker="memory://", set_as_current=False)

    @mine.task
    def greeting() -> str:
        return str(flask.current_app.config["GREETING"])

    Celeriac(make(GREETING="hi"), celery_app=mine)

    assert greeting() == "hi"


def test_each_task_has_a_context_of_its_own_that_ends_with_it() -> None:
    app = make(CELERIAC_BROKER_URL="memory://", CELERIAC_TASK_ALWAYS_EAGER=True)
    ended: list[Any] = []
    app.teardown_appcontext(lambda exc: ended.append(getattr(flask.g, "name", None)))
    Celeriac(app)

    @shared_task
    def note(name: str) -> bool:
        clean = not hasattr(flask.g, "name")
        flask.g.name = name
        return clean

    @shared_task
    async def note_later(name: str) -> bool:
        await asyncio.sleep(0)
        return note.run(name)

    with app.app_context():
        flask.g.name = "view"
        assert note.delay("task").get() is True
        assert ended == ["task"]
        assert note_later.delay("coroutine").get() is True
        assert ended == ["task", "coroutine"]
        assert flask.g.name == "view"
        # A plain call is part of the request that makes it.
        assert note("call") is False
        assert flask.g.name == "call"
        assert ended == ["task", "coroutine"]
    assert ended[2:] == ["call"]
    assert note("outside") is True
    assert ended[3:] == ["outside"]


def test_a_failed_task_ends_its_context_too() -> None:
    app = make(CELERIAC_BROKER_URL="memory://")
    ended: list[str] = []
    app.teardown_appcontext(lambda exc: ended.append(repr(exc)))
    Celeriac(app)

    @shared_task
    def fail() -> None:
        raise ValueError("x")

    assert fail.apply().state == "FAILURE"
    assert ended == ["ValueError('x')"]


def test_several_applications_have_an_app_each() -> None:
    first, second = make("first", CELERIAC_BROKER_URL="memory://1"), make("second", CELERIAC_BROKER_URL="memory://2")
    extension = Celeriac()

    @extension.task(name="where")
    def where() -> str:
        return flask.current_app.name

    apps = [extension.init_app(first), extension.init_app(second)]

    assert [app.tasks["where"].apply().get() for app in apps] == ["first", "second"]
    with first.app_context():
        assert extension.celery is apps[0]
    with make("third").app_context(), pytest.raises(RuntimeError, match="init_app"):
        extension.celery


def test_an_app_is_found_in_what_a_factory_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_with_factory.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))

    for name in ("shop_with_factory:create_app()", "shop_with_factory:create_app", "shop_with_factory"):
        assert find_app(name).main == "shop_with_factory"


FACTORY = dedent(
    """
    import asyncio
    import flask
    from celeriac.flask import Celeriac

    celeriac = Celeriac(broker_url="sqlite:///queue.db", result_backend="sqlite:///queue.db")

    @celeriac.task
    def whoami():
        return flask.current_app.name

    @celeriac.task
    async def whoami_later():
        await asyncio.sleep(0)
        return flask.current_app.name

    def create_app():
        app = flask.Flask(__name__)
        celeriac.init_app(app)

        @app.get("/")
        def index():
            return "x"

        return app
    """
)


def test_flasks_command_runs_a_worker(tmp_path: Path) -> None:
    (tmp_path / "shop_with_factory.py").write_text(FACTORY)
    environment = {
        **{
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CELERY", "CELERIAC", "FLASK", "APP"))
        },
        "PYTHONPATH": str(ROOT / "python"),
    }
    flask_command = [sys.executable, "-m", "flask", "--app", "shop_with_factory", "celeriac"]
    worker = WorkerProcess([*flask_command, "worker", "-P", "asyncio", "-c", "1", "-l", "INFO"], tmp_path, environment)
    try:
        worker.wait_for(r" ready\.$")
        for name in ("whoami", "whoami_later"):
            done = subprocess.run(
                [*flask_command, "call", f"shop_with_factory.{name}"],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            result = subprocess.run(
                [*flask_command, "result", done.stdout.strip(), "--timeout", "30"],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert result.stdout.strip() == "shop_with_factory", result.stderr + worker.log
        assert worker.stop() == 0
    finally:
        worker.kill()


def test_importing_celeriac_imports_no_flask_and_its_absence_is_said() -> None:
    script = """
import sys
import celeriac, celeriac.asgi
celeriac.Celery, celeriac.AsyncResult
assert "flask" not in sys.modules
sys.modules["flask"] = None
try:
    import celeriac.flask
except ImportError as exc:
    print(exc)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert "pip install 'celeriac[flask]'" in done.stdout, done.stderr
