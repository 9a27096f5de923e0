"""Programs in which `celery` is celeriac: each in a process of its own, since the alias cannot be taken back."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import celeriac

PACKAGE = Path(celeriac.__file__).parents[1]
#: An environment in which Celery and kombu are installed.
CELERY_PYTHON = PACKAGE.parent / ".venv-celery/bin/python"
SECONDS = 60

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of such a program: deaf to settings of whoever runs the tests."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY", "CELERIAC"))}
    # A pytest in it loads the plugins that it is told to, and no others: that takes seconds.
    return {**own, "PYTHONPATH": str(PACKAGE), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@pytest.fixture
def python(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Runs Python with these arguments in the test's folder; must end well unless told otherwise."""

    def run(*arguments: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def aliased(python: Run) -> Callable[..., str]:
    """Runs a program that begins with `install()`; gives what it prints."""

    def run(program: str, **more: str) -> str:
        begin = "import celeriac.compat; celeriac.compat.install()\n"
        return python("-c", begin + textwrap.dedent(program), **more).stdout

    return run


@pytest.fixture
def celery_python(tmp_path: Path, environment: dict[str, str]) -> Callable[[str], str]:
    """Runs a program where the real Celery and kombu are installed; gives what it prints."""

    def run(program: str) -> str:
        done = subprocess.run(
            [CELERY_PYTHON, "-c", program],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
