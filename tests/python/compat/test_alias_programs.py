"""Whole programs that say `import celery`: a worker with its children, pytest with the fixtures, Django's integration."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Python = Callable[..., Any]
SECONDS = 60

PROJECT = """
import os
from celery import Celery, shared_task
from celery.exceptions import Reject, SoftTimeLimitExceeded
from celery.utils.log import get_task_logger

app = Celery("proj", broker="sqlite:///queue.db", backend="sqlite:///queue.db")
logger = get_task_logger(__name__)

@shared_task
def which():
    import celery, sys
    logger.warning("said by a task")
    return [celery.__version__, celery.Task.__module__, os.getpid()]

@app.task
def die():
    os._exit(3)

@app.task
def child():
    import subprocess, sys
    return subprocess.run([sys.executable, "-c", "import celery; print(celery.VERSION_BANNER)"],
                          capture_output=True, text=True, check=True).stdout
"""

CALLS = """
import proj
first = proj.which.delay().get(timeout=30)
assert first[:2] == ["5.7.0", "celeriac.app.task"], first
print(proj.child.delay().get(timeout=30), end="")
print(type(proj.die.delay().get(timeout=30, propagate=False)).__name__)
assert proj.which.delay().get(timeout=30)[2] != first[2]
print(proj.app.send_task("celery.backend_cleanup").id != None, sorted(n for n in proj.app.tasks if n.startswith("celery.back")))
"""


def test_a_worker_serves_a_project_that_imports_celery(
    python: Python, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "proj.py").write_text(PROJECT)
    log = tmp_path / "log"
    with log.open("w") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celeriac", "-A", "proj", "worker", "-c", "1", "-l", "INFO"],
            cwd=tmp_path,
            env={**environment, "CELERIAC_COMPAT": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        (tmp_path / "calls.py").write_text(CALLS)
        said = python("-m", "celeriac.compat", "calls.py").stdout
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(SECONDS) == 0, log.read_text()

    assert said.splitlines() == [
        "5.7.0 (celeriac)",
        "WorkerLostError",
        "True ['celery.backend_cleanup']",
    ]
    assert "said by a task" in log.read_text()


TESTS = """
import pytest
from LIBRARY import shared_task
from LIBRARY.contrib.abortable import AbortableTask

SEEN = []

@shared_task
def add(x, y):
    SEEN.append((x, y))
    return x + y

@pytest.fixture(scope="session")
def celery_config():
    return {"task_track_started": True}

@pytest.fixture(scope="session")
def celery_parameters():
    return {"strict_typing": False}

@pytest.fixture(scope="session")
def celery_includes():
    return ["included"]

def test_tasks_run_in_this_process(celery_app, celery_worker):
    @celery_app.task
    def multiply(x, y):
        return x * y

    celery_worker.reload()
    assert add.delay(2, 3).get(timeout=10) == 5
    assert multiply.delay(4, 4).get(timeout=10) == 16
    assert celery_app.send_task("included.hello").get(timeout=10) == "hello"
    assert SEEN == [(2, 3)]
    assert celery_app.conf.task_track_started and not celery_app.strict_typing

def test_a_soft_limit_is_ignored_as_by_the_solo_pool(celery_app, celery_worker):
    import time

    @celery_app.task(soft_time_limit=0.01)
    def slow():
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            pass
        return "done"

    assert slow.apply_async(soft_time_limit=0.01, time_limit=None).get(timeout=10) == "done"

@pytest.mark.celery(task_default_queue="own", result_backend="memory://")
def test_a_mark_changes_settings(celery_app, celery_worker):
    assert celery_app.conf.task_default_queue == "own"
    assert add.s(1, 1).apply_async().get(timeout=10) == 2

def test_an_abortable_task(celery_app, celery_worker, depends_on_current_app):
    import threading, time

    runs = threading.Event()

    @celery_app.task(bind=True, base=AbortableTask)
    def long(self):
        runs.set()
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if self.is_aborted():
                return "aborted"
        return "late"

    result = long.delay()
    assert runs.wait(10)
    result.abort()
    assert result.get(timeout=10) == "aborted"

def test_the_app_is_gone_afterwards(celery_app):
    from LIBRARY._state import get_current_app
    assert get_current_app() is not celery_app

class TestSession:
    def test_a_worker_of_the_session(self, celery_session_app, celery_session_worker):
        assert add.delay(2, 2).get(timeout=10) == 4
        assert celery_session_app.tasks["celery.ping"].delay().get(timeout=10) == "pong"
"""


@pytest.mark.parametrize("library", ["celery", "celeriac"])
def test_the_fixtures_of_the_pytest_plugin(python: Python, tmp_path: Path, library: str) -> None:
    (tmp_path / "included.py").write_text(
        f"from {library} import shared_task\n@shared_task(name='included.hello')\ndef hello():\n    return 'hello'\n"
    )
    (tmp_path / "test_project.py").write_text(TESTS.replace("LIBRARY", library))
    begin = ["-m", "celeriac.compat"] if library == "celery" else []

    done = python(
        *begin, "-m", "pytest", "-p", f"{library}.contrib.pytest", "-p", "no:cacheprovider", "-q", "test_project.py"
    )

    assert "6 passed" in done.stdout


def test_pytest_finds_the_fixtures_by_itself_and_takes_the_alias_from_the_environment(
    python: Python, tmp_path: Path
) -> None:
    (tmp_path / "test_project.py").write_text(
        "import celery\ndef test_the_app(celery_app):\n    assert isinstance(celery_app, celery.Celery)\n"
    )
    found = ["-m", "pytest", "-p", "celeriac.contrib.pytest_entry", "-p", "no:cacheprovider", "-q", "test_project.py"]

    alone = python(*found, CELERIAC_COMPAT="1")
    named_too = python(*found, "-p", "celery.contrib.pytest", CELERIAC_COMPAT="1")
    (tmp_path / "conftest.py").write_text("pytest_plugins = ('celery.contrib.pytest',)\n")
    in_a_conftest = python(*found, CELERIAC_COMPAT="1")

    assert all("1 passed" in done.stdout for done in (alone, named_too, in_a_conftest))


def test_a_worker_in_a_thread_that_cannot_start_or_stop_says_so(python: Python, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("""
import threading
from celeriac import Celery
from celeriac.contrib.testing.worker import start_worker

app = Celery("a", broker="memory://", backend="memory://")
go_on = threading.Event()

@app.task
def wait():
    go_on.wait(30)

try:
    with start_worker(app):
        pass
except RuntimeError as exc:
    print(exc)
wrong = Celery("b", broker="nonsense://")
try:
    with start_worker(wrong, perform_ping_check=False):
        pass
except Exception as exc:
    print(type(exc).__name__)
try:
    with start_worker(app, perform_ping_check=False, shutdown_timeout=0.2, queues="celery,other"):
        wait.delay()
        while not app.control.inspect(timeout=0.2).active():
            pass
except RuntimeError as exc:
    print(exc)
go_on.set()
""")

    said = python("program.py").stdout.splitlines()

    assert said[0] == "import celery.contrib.testing.tasks first, or pass perform_ping_check=False"
    assert said[1] == "ImproperlyConfigured"
    assert said[2].startswith("the test worker did not end within 0.2 seconds: a task still runs")


FAKE_DJANGO = {
    "django/__init__.py": "VERSION = (5, 2)\nsaid = []\ndef setup(): said.append('setup')\n",
    "django/apps.py": "import types\nclass apps:\n    get_app_configs = staticmethod(lambda: [types.SimpleNamespace(name='shop')])\n",
    "django/conf.py": "import types\nsettings = types.SimpleNamespace(CELERY_BROKER_URL='memory://', CELERY_RESULT_BACKEND='memory://', OTHER=1)\n",
    "django/core/__init__.py": "",
    "django/core/cache.py": "import django\ndef close_caches(): django.said.append('caches')\n",
    "django/core/checks.py": "import django\ndef run_checks(): django.said.append('checks')\n",
    "django/db/__init__.py": """
import django
from django.db import utils
from django.db.utils import DatabaseError
class Connection:
    connection = None
    settings_dict = {"OPTIONS": {}}
    def close(self): django.said.append('close')
class connections:
    all = staticmethod(lambda initialized_only=False: [Connection()])
""",
    "django/db/utils.py": "class DatabaseError(Exception): pass\nclass InterfaceError(Exception): pass\n",
    "django/db/transaction.py": "waiting = []\ndef on_commit(call): waiting.append(call)\n",
    "shop/__init__.py": "",
    "shop/tasks.py": "import django\nfrom celery import shared_task\ndjango.said.append('tasks')\n@shared_task\ndef sell(n):\n    django.said.append('run')\n    return n\n",
}


def test_a_django_project_is_set_up_and_its_connections_are_closed_around_tasks(python: Python, tmp_path: Path) -> None:
    for name, text in FAKE_DJANGO.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "program.py").write_text("""
import django
from celery import Celery
from celery.contrib.django.task import DjangoTask
from celery.contrib.testing.worker import start_worker

app = Celery("site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
assert django.said == []
app.loader.import_default_modules()
assert django.said == ["setup", "checks", "tasks"], django.said

from shop.tasks import sell
from django.db import transaction
assert isinstance(sell, DjangoTask)
del django.said[:]
with start_worker(app, perform_ping_check=False):
    sell.delay_on_commit(2)
    sell.apply_async_on_commit((3,))
    results = [call() for call in transaction.waiting]
    assert [result.get(timeout=10) for result in results] == [2, 3]
at = django.said.index("run")
assert django.said[at - 1] == "close", django.said
assert django.said[at + 1 : at + 3] == ["close", "caches"], django.said
del django.said[:]
assert sell.apply((4,)).get() == 4
assert django.said == ["run"]
""")

    python("-m", "celeriac.compat", "program.py", DJANGO_SETTINGS_MODULE="site.settings")


def test_without_django_its_variable_is_a_warning(python: Python, tmp_path: Path) -> None:
    (tmp_path / "django.py").write_text("raise ImportError('not here')")
    done = python("-c", "import celeriac; celeriac.Celery('x')", DJANGO_SETTINGS_MODULE="site.settings")

    assert "FixupWarning: DJANGO_SETTINGS_MODULE is set, and Django is not installed" in done.stderr
