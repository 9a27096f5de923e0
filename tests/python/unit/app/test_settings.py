"""Settings: names, sources, which one wins, conversion, masking."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from celeriac import Celery
from celeriac.app.defaults import SETTINGS
from celeriac.exceptions import ImproperlyConfigured


def test_every_setting_of_celery_has_its_old_name_type_and_default(golden) -> None:
    rows = golden("offline/settings")["rows"]

    assert len(rows) > 200
    for row in rows:
        setting = SETTINGS[row["name"]]
        default = float("inf") if row["default"] == "infinity" else row["default"]
        ours = list(setting.default) if isinstance(setting.default, tuple) else setting.default
        assert (setting.old, setting.type, ours) == (row["old"], row["type"], default), row["name"]


def test_attributes_items_and_old_names_are_the_same_setting(app: Celery) -> None:
    app.conf.task_acks_late = True

    assert app.conf["task_acks_late"] is True
    assert app.conf.CELERY_ACKS_LATE is True
    assert app.conf.get("CELERY_ACKS_LATE") is True
    app.conf.update(CELERY_ACKS_LATE=False)
    assert app.conf.task_acks_late is False
    app.conf["mine"] = 1
    assert app.conf.mine == 1
    with pytest.raises(AttributeError):
        app.conf.nothing_of_this_name
    with pytest.raises(KeyError):
        app.conf["nothing_of_this_name"]


@pytest.mark.parametrize("kind", ["object", "module", "mapping"])
def test_settings_come_from(kind: str, app: Celery, monkeypatch) -> None:
    values = {"task_default_queue": "work", "result_expires": 60}
    source: object = values
    if kind == "object":
        source = type("Config", (), values)
    elif kind == "module":
        module = ModuleType("its_config")
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, "its_config", module)
        source = "its_config"

    app.config_from_object(source)

    assert app.conf.task_default_queue == "work"
    assert app.conf.result_expires == 60


def test_a_namespace_picks_names_with_its_prefix(app: Celery) -> None:
    app.config_from_object(
        {"CELERY_TASK_DEFAULT_QUEUE": "work", "CELERY_BROKER_URL": "sqlite:///a.db", "DEBUG": True},
        namespace="CELERY",
    )

    assert app.conf.task_default_queue == "work"
    assert app.conf.broker_url == "sqlite:///a.db"
    assert "DEBUG" not in app.conf


def test_sources_are_read_on_first_use_only(app: Celery) -> None:
    app.config_from_object("a.module.that.is.not.there")

    with pytest.raises(ImproperlyConfigured, match="a.module.that.is.not.there"):
        app.conf.broker_url


def test_mixing_old_and_new_names_lists_the_renames(app: Celery) -> None:
    app.config_from_object({"CELERY_ACKS_LATE": True, "task_serializer": "json", "broker_url": "memory://"})

    with pytest.raises(ImproperlyConfigured, match=r"CELERY_ACKS_LATE +-> task_acks_late"):
        app.conf.task_acks_late


def test_the_environment_wins_and_ours_over_celerys(monkeypatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://celery")
    app = Celery("x", broker="memory://argument")
    assert app.conf.broker_url == "memory://celery"

    monkeypatch.setenv("CELERIAC_BROKER_URL", "memory://celeriac")
    monkeypatch.setenv("CELERIAC_TASK_ACKS_LATE", "true")
    monkeypatch.setenv("CELERIAC_RESULT_EXPIRES", "12.5")
    app = Celery("x", broker="memory://argument")
    app.conf.broker_url = "memory://set"
    assert app.conf.broker_url == "memory://celeriac"
    assert app.conf.task_acks_late is True
    assert app.conf.result_expires == 12.5


def test_changes_win_over_arguments_over_the_source_over_added_defaults(app: Celery) -> None:
    app = Celery("x", task_default_queue="argument")
    app.config_from_object({"task_default_queue": "source", "task_serializer": "source"})
    app.add_defaults({"task_serializer": "added", "timezone": "Europe/Berlin"})

    assert app.conf.task_default_queue == "argument"
    assert app.conf.task_serializer == "source"
    assert app.conf.timezone == "Europe/Berlin"
    app.conf.task_default_queue = "change"
    assert app.conf.task_default_queue == "change"


def test_a_value_given_as_text_gets_the_settings_type(app: Celery) -> None:
    app.conf.update(worker_prefetch_multiplier="2", task_acks_late="no", accept_content="json, yaml")

    assert app.conf.worker_prefetch_multiplier == 2
    assert app.conf.task_acks_late is False
    assert app.conf.accept_content == ["json", "yaml"]
    with pytest.raises(ImproperlyConfigured, match="worker_prefetch_multiplier wants int"):
        app.conf.worker_prefetch_multiplier = "many"


def test_secrets_do_not_show(app: Celery) -> None:
    app.conf.update(
        broker_url="redis://user:hunter2@host/0;redis://:hunter2@other/0",
        result_backend="db+postgresql://user:hunter2@host/db",
        redis_password="hunter2",
        s3_secret_access_key="hunter2",
        broker_transport_options={"sentinel_kwargs": {"password": "hunter2"}},
        task_default_routing_key="visible",
    )

    text = app.conf.humanize()

    assert "hunter2" not in text
    assert "redis://user:**@host/0" in text
    assert "visible" in text
    assert "hunter2" not in repr(app.conf)


def test_defaults_of_one_app_are_not_those_of_another() -> None:
    Celery("a").conf.broker_transport_options["x"] = 1

    assert Celery("b").conf.broker_transport_options == {}


def test_configuring_tells_whoever_is_connected(app: Celery) -> None:
    seen: list[object] = []
    app.on_after_configure.connect(lambda sender, source, **_: seen.append(source.broker_url), weak=False)

    assert seen == []
    app.conf.broker_url
    app.conf.broker_url

    assert seen == [None]
