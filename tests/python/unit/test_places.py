"""Modules that stand where Celery has them: loaders, annotations, pools by name, parts of commands, old worker globals."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from celeriac import Celery, _state, concurrency
from celeriac.app import annotations
from celeriac.app.utils import appstr, find_app, sanitize_url
from celeriac.bin import base as commands
from celeriac.exceptions import InvalidTaskError
from celeriac.loaders import get_loader_cls
from celeriac.loaders.app import AppLoader
from celeriac.loaders.base import find_related_module
from celeriac.worker import components, request, state, strategy


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_of_places").mkdir()
    (tmp_path / "shop_of_places" / "__init__.py").write_text("")
    (tmp_path / "shop_of_places" / "tasks.py").write_text(
        "from celeriac import shared_task\n@shared_task(name='shop.sell')\ndef sell(): ...\n"
    )
    (tmp_path / "broken_place.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("modules")
def test_a_loader_imports_what_settings_and_packages_name(app: Celery) -> None:
    app.conf.include = ["shop_of_places.tasks"]
    assert type(app.loader) is AppLoader is get_loader_cls("app")
    assert app.loader is app.loader

    app.loader.import_default_modules()
    app.loader.autodiscover_tasks(["shop_of_places"])

    assert "shop.sell" in app.tasks
    assert app.loader.task_modules == {"shop_of_places.tasks"}
    assert find_related_module("shop_of_places", "nothing") is None
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        find_related_module("broken_place", None)
    assert app.loader.now().tzinfo is UTC


def test_what_a_receiver_of_import_modules_raises_ends_the_import(app: Celery) -> None:
    from celeriac.signals import import_modules

    def refuse(**_: Any) -> None:
        raise RuntimeError("settings are wrong")

    import_modules.connect(refuse, sender=app)
    with pytest.raises(RuntimeError, match="settings are wrong"):
        app.loader.import_default_modules()


def test_fixups_of_ones_own(app: Celery) -> None:
    class Fixup:
        def __init__(self, app: Celery) -> None:
            self.app = app

        def autodiscover_tasks(self) -> list[str]:
            return []

    with Celery("fixed", fixups=[Fixup, lambda app: None], set_as_current=False) as own:
        (made,) = own._fixups
        assert made.app is own
        own.autodiscover_tasks(force=True)
    assert app._fixups == []


def test_annotations_of_tasks() -> None:
    prepared = annotations.prepare([{"*": {"a": 1}, "add": {"b": 2}}])
    add, other = SimpleNamespace(name="add"), SimpleNamespace(name="other")

    assert list(annotations.resolve_all(prepared, add)) == [{"a": 1}, {"b": 2}]
    assert list(annotations.resolve_all(prepared, other)) == [{"a": 1}]
    assert annotations.prepare(None) == ()


def test_apps_by_name_and_as_text(app: Celery) -> None:
    assert appstr(app).startswith("unit at 0x")
    assert sanitize_url("redis://:secret@host/0") == "redis://:**@host/0"
    assert find_app(f"{__name__}:holder.app") is holder.app


holder = SimpleNamespace(app=Celery("held", set_as_current=False))


def test_pools_by_name() -> None:
    assert issubclass(concurrency.get_implementation("prefork"), concurrency.get_implementation("processes"))
    assert concurrency.get_implementation("gevent").is_green
    assert {"prefork", "solo", "threads", "gevent"} <= set(concurrency.get_available_pool_names())
    assert concurrency.get_implementation("solo")(limit=1).num_processes == 1


def test_a_command_groups_its_options_and_knows_celerys_types() -> None:
    seen: dict[str, Any] = {}

    @click.command(cls=commands.CeleryCommand)
    @click.option(
        "--args", type=commands.JSON_ARRAY, cls=commands.CeleryOption, help_group="Calling", help="Arguments."
    )
    @click.option("--eta", type=commands.ISO8601_OR_FLOAT)
    @click.option("--queues", type=commands.COMMA_SEPARATED_LIST)
    @click.option("--level", type=commands.LOG_LEVEL)
    def main(**given: Any) -> None:
        seen.update(given)

    runner = CliRunner()
    done = runner.invoke(main, ["--args", "[1]", "--eta", "2026-01-01T00:00:00", "--queues", "a,b", "--level", "info"])

    assert (done.exit_code, seen) == (
        0,
        {"args": [1], "eta": datetime(2026, 1, 1), "queues": ["a", "b"], "level": 20},
    )
    text = runner.invoke(main, ["--help"]).output
    assert text.index("Calling:") != text.index("Options:")
    assert runner.invoke(main, ["--eta", "soon"]).exit_code == 2


def test_what_the_engine_has_in_place_of_globals_is_an_error_that_says_whom_to_ask() -> None:
    with pytest.raises(AttributeError, match=r"app\.control\.inspect"):
        state.active_requests
    for call in (strategy.default, request.create_request_cls):
        with pytest.raises(NotImplementedError, match="engine"):
            call(None, None, None)
    assert components.Timer.name == "celery.worker.components.Timer"


def test_messages_of_protocol_1_as_those_of_2() -> None:
    body = {"args": [1], "kwargs": {}, "id": "i", "task": "t", "taskset": "g", "utc": True, "callbacks": None}
    (args, kwargs, embed), headers, decoded, utc = strategy.proto1_to_proto2(SimpleNamespace(headers={}), body)

    assert (args, kwargs, embed["chain"]) == ([1], {}, None)
    assert (headers["group"], headers["id"], decoded, utc) == ("g", "i", True, True)
    with pytest.raises(InvalidTaskError, match="mapping"):
        strategy.hybrid_to_proto2(SimpleNamespace(headers={}), {"args": (), "kwargs": []})


def test_the_stack_of_tasks_as_an_object(app: Celery) -> None:
    @app.task
    def add() -> None: ...

    _state._task_stack.push(add)
    try:
        assert _state._task_stack.top is add
        assert _state.current_task.name == add.name
        assert len(_state._task_stack) == 1
    finally:
        assert _state._task_stack.pop() is add
    assert _state._task_stack.stack == []
