"""How `-A` is understood."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from celeriac._state import get_current_app
from celeriac.app.find_app import AppNotFound, find_app

MODULES = {
    "plain_app.py": """
        from celeriac.app.base import Celery
        app = Celery("plain")
        """,
    "named_celery.py": """
        from celeriac.app.base import Celery
        celery = Celery("named")
        """,
    "odd_name.py": """
        from celeriac.app.base import Celery
        queue_of_ours = Celery("odd")
        """,
    "package_app/__init__.py": "",
    "package_app/celery.py": """
        from celeriac.app.base import Celery
        app = Celery("package")
        """,
    "factory.py": """
        from celeriac.app.base import Celery
        def create_app():
            return Celery("made")
        def broken():
            raise RuntimeError("no database")
        def needs_name(name):
            return Celery(name)
        """,
    "flask_like.py": """
        from celeriac.app.base import Celery
        class Flask:
            def __init__(self):
                self.extensions = {"celery": Celery("flasky")}
        def create_app():
            return Flask()
        flask_app = Flask()
        """,
    "no_app.py": "x = 1\n",
    "tasks_alone.py": """
        from celeriac import task
        @task
        def only_here():
            return 1
        """,
    "fails.py": "import os\nos.nothing_there\n",
    "needs.py": "import surely_not_installed_anywhere\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in MODULES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(text))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "main"),
    [
        ("plain_app", "plain"),
        ("plain_app:app", "plain"),
        ("plain_app.app", "plain"),
        ("named_celery", "named"),
        ("odd_name", "odd"),
        ("odd_name:queue_of_ours", "odd"),
        ("package_app", "package"),
        ("package_app.celery", "package"),
        ("package_app.celery:app", "package"),
        ("factory:create_app()", "made"),
        ("factory:create_app", "made"),
        ("factory", "made"),
        ("flask_like:flask_app", "flasky"),
        ("flask_like:create_app()", "flasky"),
    ],
)
def test_an_app_is_found(name: str, main: str, project: Path) -> None:
    assert find_app(name).main == main


def test_a_module_with_tasks_and_no_app_stands_for_the_default_app(project: Path) -> None:
    app = find_app("tasks_alone")

    assert app is get_current_app()
    assert "tasks_alone.only_here" in app.tasks


@pytest.mark.parametrize(
    ("name", "problem", "hint"),
    [
        ("nosuch", "no module 'nosuch'", "--workdir"),
        ("plain_app:nope", "has no 'nope'", "what is the app called"),
        ("no_app", "neither a Celery app nor a task", "name it"),
        ("no_app:x", "is a int, not a Celery app", "name the Celery app"),
        ("factory:needs_name", "is a function, not a Celery app", "module:create_app()"),
        ("factory:broken()", "failed: RuntimeError: no database (factory.py, line 6)", "without arguments"),
        ("fails", "AttributeError", "python -c 'import fails'"),
        ("needs", "surely_not_installed_anywhere", "installed in this environment"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_a_hint(name: str, problem: str, hint: str, project: Path) -> None:
    with pytest.raises(AppNotFound) as caught:
        find_app(name)

    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hint in caught.value.hint


def test_urls_of_the_command_line_win_over_everything(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://environment")
    monkeypatch.setenv("CELERIAC_BROKER_URL", "")
    monkeypatch.setenv("CELERIAC_RESULT_BACKEND", "")

    app = find_app("plain_app", broker="memory://given", result_backend="memory://results")

    assert app.conf.broker_url == "memory://given"
    assert app.conf.result_backend == "memory://results"


def test_the_working_directory_is_changed_first(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))

    assert find_app("plain_app", workdir=str(project)).main == "plain"


def test_a_working_directory_that_is_not_there_is_said(project: Path) -> None:
    with pytest.raises(AppNotFound, match="cannot change to"):
        find_app("plain_app", workdir=str(project / "nowhere"))
