"""Apps: names, finalising, clients and forks, discovery, control, the worker's options."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery, _state, current_app, current_task
from celeriac.app.options import consumed_queues, worker_options
from celeriac.exceptions import ImproperlyConfigured, NotRegistered


@pytest.fixture
def app(tmp_path) -> Any:
    url = f"memory://{tmp_path.name}"
    with Celery("unit", broker=url, backend=url) as app:
        yield app


def test_names_of_tasks(app: Celery) -> None:
    assert app.gen_task_name("f", "pkg.tasks") == "pkg.tasks.f"
    assert app.gen_task_name("f", "__main__") == "unit.f"
    with pytest.raises(NotRegistered) as caught:
        app.tasks["nothing"]
    assert "nothing" in repr(caught.value)


def test_an_app_made_last_is_current_and_closing_forgets_it(app: Celery) -> None:
    assert current_app == app
    assert _state.get_current_app() is app
    assert not current_task
    assert app in _state.active_apps()
    app.close()
    assert app not in _state.active_apps()


def test_autofinalize_off_refuses_use_before_finalize() -> None:
    app = Celery("x", autofinalize=False)

    @app.task
    def add(x, y):
        return x + y

    with pytest.raises(RuntimeError, match="not finalized"):
        _ = app.tasks
    app.finalize()
    assert add.name in app.tasks


def test_finalising_tells_whoever_is_connected(app: Celery) -> None:
    seen: list[Any] = []
    app.on_after_finalize.connect(lambda sender, **_: seen.append(sender), weak=False)

    _ = app.tasks
    _ = app.tasks

    assert seen == [app]


def test_one_client_for_each_process(app: Celery) -> None:
    client = app.client
    assert app.client is client

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, b"other" if app.client is not client else b"same")
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)

    assert os.read(read, 10) == b"other"
    os.close(read)
    assert app.client is client


def test_a_fork_is_told_and_leaves_no_lock_behind(app: Celery) -> None:
    app.on_after_fork.connect(lambda sender, **_: os.write(write, b"told"), weak=False)
    read, write = os.pipe()
    with app._lock, app._engine._lock, app.conf._lock:
        holder_pid = os.fork()
    if holder_pid == 0:
        free = all(lock.acquire(timeout=5) for lock in (app._lock, app._engine._lock, app.conf._lock))
        os._exit(0 if free else 1)
    _, status = os.waitpid(holder_pid, 0)

    assert status == 0
    assert os.read(read, 10) == b"told"
    for descriptor in (read, write):
        os.close(descriptor)


def test_autodiscovery_imports_only_packages_that_have_tasks(app: Celery, tmp_path: Path, monkeypatch) -> None:
    for name, module in (("with_tasks", "tasks.py"), ("without_tasks", "other.py")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / module).write_text("LOADED = True\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("")
    (tmp_path / "broken" / "tasks.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)

    app.autodiscover_tasks(lambda: ["with_tasks", "without_tasks"])
    assert "with_tasks.tasks" not in sys.modules
    app.import_default_modules()

    assert sys.modules.pop("with_tasks.tasks").LOADED
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        app.autodiscover_tasks(["broken"], force=True)


def test_revoke_is_celerys_control_message(app: Celery, monkeypatch) -> None:
    sent: list[Any] = []

    class Client:
        def broadcast(self, exchange, publication, ttl):
            sent.append((exchange, json.loads(publication.body)))

        def close(self):
            pass

    monkeypatch.setattr(Celery, "client", Client())

    app.AsyncResult("a").revoke(terminate=True, signal="SIGKILL")
    app.control.revoke(["a", "b"], destination=["w1@h"])

    (exchange, first), (_, second) = sent
    assert exchange == "celery.pidbox"
    assert first == {
        "method": "revoke",
        "arguments": {"task_id": "a", "terminate": True, "signal": "SIGKILL"},
        "destination": None,
        "pattern": None,
        "matcher": None,
    }
    assert second["arguments"] == {"task_id": ["a", "b"], "terminate": False, "signal": "SIGTERM"}
    assert second["destination"] == ["w1@h"]


def test_purge_empties_the_queues_of_the_settings(app: Celery) -> None:
    for _ in range(3):
        app.send_task("t")
    app.send_task("t", queue="other")

    assert app.control.purge() == 4
    assert app.control.purge() == 0


def test_a_prefetch_multiplier_that_nobody_has_set_is_left_to_the_engine(app: Celery) -> None:
    assert app.conf.worker_prefetch_multiplier == 4
    assert worker_options(app, node="w@h", concurrency=3)["prefetch_multiplier"] is None

    app.conf.worker_prefetch_multiplier = 4
    assert worker_options(app, node="w@h", concurrency=3)["prefetch_multiplier"] == 4


def test_options_of_the_worker(app: Celery) -> None:
    app.conf.update(
        worker_prefetch_multiplier=2, task_time_limit=30, result_expires=10, accept_content=["json", "yaml"]
    )

    @app.task(name="t", rate_limit="10/m", acks_late=True, acks_on_failure_or_timeout=False, soft_time_limit=3)
    def t():
        pass

    options = worker_options(app, node="w@h", concurrency=3, lease_seconds=5.0)

    assert options["queues"] == ["celery"]
    assert options["accept_content"] == ["application/json", "application/x-yaml"]
    assert options["lease_seconds"] == 5.0
    assert (options["concurrency"], options["prefetch_multiplier"], options["time_limit"]) == (3, 2, 30)
    assert options["result_expires_ms"] == 10_000
    assert options["tasks"]["t"] == {
        "acks_late": True,
        "acks_on_failure": False,
        "acks_on_timeout": False,
        "reject_on_worker_lost": False,
        "track_started": False,
        "ignore_result": False,
        "send_events": True,
        "rate_limit": "10/m",
        "time_limit": None,
        "soft_time_limit": 3,
        "batch": None,
    }


@pytest.mark.parametrize("limit", ["10/d", "abc", "10/ s", "-1/s"])
def test_a_rate_limit_that_cannot_be_read_stops_the_worker(app: Celery, limit: str) -> None:
    @app.task(name="t", rate_limit=limit)
    def t():
        pass

    with pytest.raises(ImproperlyConfigured, match="rate limit"):
        worker_options(app, node="w@h")


def test_queues_are_those_of_the_settings_or_those_asked_for(app: Celery) -> None:
    app.conf.task_queues = {"a": {}, "b": {}}

    assert consumed_queues(app, None) == ["a", "b"]
    assert consumed_queues(app, None, ["a"]) == ["b"]
    assert consumed_queues(app, ["b", "new", "b"]) == ["b", "new"]
    app.conf.task_create_missing_queues = False
    with pytest.raises(ImproperlyConfigured, match="newer"):
        consumed_queues(app, ["newer"])


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys; before = set(sys.modules); import celeriac; light = set(sys.modules) - before; celeriac.Celery;"
        "heavy = set(sys.modules) - before; print(*sorted(light)); print(*sorted(heavy))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    light, heavy = (set(line.split()) for line in out.splitlines())

    assert {name for name in light if not name.startswith("celeriac")} <= {"__future__"}
    assert not heavy & {"asyncio", "inspect", "logging", "logging.config", "email", "http", "socket", "click", "uuid"}


def test_every_public_name_is_there() -> None:
    import celeriac

    with pytest.raises(AttributeError):
        _ = celeriac.nothing_of_this_name
    assert celeriac.VERSION[0] >= 0
    for name in celeriac.__all__:
        assert getattr(celeriac, name) is not None or name == "current_task"


def test_a_bug_report_has_no_secrets() -> None:
    app = Celery("x", broker="redis://:hunter2@host/0", task_acks_late=True)

    text = app.bugreport()

    assert "hunter2" not in text
    assert "broker   -> redis://:**@host/0" in text
    assert "results  -> off" in text
    assert "task_acks_late: True" in text
