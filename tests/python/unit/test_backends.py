"""Which class a result backend is, and what the base of those written in Python does."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from celeriac import Celery
from celeriac.app.context import Context
from celeriac.backends import by_name, by_url, find
from celeriac.backends.base import BaseBackend, BaseDictBackend, DisabledBackend
from celeriac.backends.engine import EngineBackend
from celeriac.backends.keyvalue import KeyValueStoreBackend
from celeriac.exceptions import BackendGetMetaError, BackendStoreError, ImproperlyConfigured


class Memory(KeyValueStoreBackend):
    """Keeps records in a dict."""

    kept: dict[bytes, Any] = {}
    #: Calls that fail before one succeeds.
    failures = 0

    def get(self, key: bytes) -> Any:
        if type(self).failures:
            type(self).failures -= 1
            raise ConnectionError("away")
        return self.kept.get(key)

    def set(self, key: bytes, value: Any) -> None:
        self.kept[key] = value

    def delete(self, key: bytes) -> None:
        self.kept.pop(key, None)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, ConnectionError)


PATH = f"{Memory.__module__}:Memory"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Celery:
    monkeypatch.setattr(Memory, "kept", {})
    monkeypatch.setattr(Memory, "failures", 0)
    monkeypatch.setitem(sys.modules, Memory.__module__, sys.modules[__name__])
    return Celery("backends", broker="memory://", backend=PATH, set_as_current=False)


@pytest.mark.parametrize(
    "value",
    [None, "", "disabled://", "redis://host/1", "rediss://host", "redis", "rpc://", "sqlite:///x.db", "memory://",
     "db+postgresql://host/x", "database", "sentinel://a;sentinel://b", "cache+memcached://host", "mongodb://host"],
)  # fmt: skip
def test_these_are_no_business_of_python(value: str | None) -> None:
    assert find.own_backend(value) is None


def test_classes_are_named_by_path_by_url_and_by_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "_declared", lambda: {"django-db": "django_celery_results.backends:DatabaseBackend"})

    assert find.own_backend("django-db") == ("django_celery_results.backends:DatabaseBackend", None)
    assert find.own_backend("proj.results:Own") == ("proj.results:Own", None)
    assert find.own_backend("proj.results.Own") == ("proj.results.Own", None)
    assert find.own_backend("proj.results:Own://host/1") == ("proj.results:Own", "proj.results:Own://host/1")
    assert find.own_backend("proj.results:Own+redis://host/1") == ("proj.results:Own", "redis://host/1")
    assert find.own_backend(Memory) == (Memory, None)
    assert by_name() is DisabledBackend
    assert by_url("redis://host") == (EngineBackend, "redis://host")
    with pytest.raises(ImproperlyConfigured, match="cannot be imported"):
        by_name("nowhere.at_all:Backend")
    with pytest.raises(ImproperlyConfigured, match="is a module"):
        by_name("celeriac.backends")


def test_an_app_has_a_backend_and_says_where_results_go(app: Celery) -> None:
    assert app.results_enabled
    assert app.result_backend_effective is None
    assert type(app.backend).__name__ == "Memory"
    assert app.backend is app.backend
    assert f"results  -> {PATH}" in app.bugreport()
    assert isinstance(Celery("x", broker="memory://", set_as_current=False).backend, DisabledBackend)
    assert issubclass(BaseDictBackend, BaseBackend)


def test_a_record_is_celerys(app: Celery) -> None:
    app.conf.result_extended = True
    request = Context(
        id="1", task="add", args=[2], kwargs={}, group="g", hostname="w", delivery_info={"routing_key": "q"}
    )

    app.backend.mark_as_done("1", {"sum": 5}, request=request)
    app.backend.mark_as_failure("2", ValueError("bad", 1), traceback="lines")

    record = app.backend.get_task_meta("1")
    assert record.pop("date_done")
    assert record == {
        "status": "SUCCESS", "result": {"sum": 5}, "traceback": None, "children": [], "group_id": "g", "name": "add",
        "args": [2], "kwargs": {}, "worker": "w", "retries": 0, "queue": "q", "task_id": "1",
    }  # fmt: skip
    failed = app.AsyncResult("2")
    assert (failed.state, repr(failed.result), failed.traceback) == ("FAILURE", "ValueError('bad', 1)", "lines")
    app.backend.store_result("1", "a late repeat", "SUCCESS")
    assert app.AsyncResult("1").get(timeout=5) == {"sum": 5}
    app.AsyncResult("1").forget()
    assert app.AsyncResult("1").state == "PENDING"


def test_a_store_that_is_away_is_tried_again_where_the_settings_say_so(app: Celery) -> None:
    Memory.failures = 1
    with pytest.raises(ConnectionError):
        app.backend.get_task_meta("1")
    app.conf.update(
        result_backend_always_retry=True, result_backend_max_retries=2, result_backend_base_sleep_between_retries_ms=1
    )

    Memory.failures = 2
    assert app.backend.get_task_meta("1")["status"] == "PENDING"
    Memory.failures = 3
    with pytest.raises(BackendGetMetaError):
        app.backend.get_task_meta("1")
    Memory.failures = 3
    with pytest.raises(BackendStoreError):
        app.backend.store_result("1", 1, "SUCCESS")


def test_many_are_waited_for_together(app: Celery) -> None:
    for number in range(3):
        app.backend.store_result(str(number), number, "SUCCESS")

    found = dict(app.backend.get_many(["0", "1", "2"], timeout=5))
    assert {key: meta["result"] for key, meta in found.items()} == {"0": 0, "1": 1, "2": 2}
    with pytest.raises(app.backend.TimeoutError):
        list(app.backend.get_many(["0", "missing"], timeout=0.01, interval=0.005))
    with pytest.raises(app.backend.TimeoutError):
        app.backend.wait_for("missing", timeout=0.01, interval=0.005)


def test_a_task_is_sent_by_its_apps_send_task_where_that_is_somebody_elses() -> None:
    class Watched(Celery):
        def send_task(self, *args: Any, **options: Any) -> Any:
            seen.append((args, options.get("countdown")))
            return super().send_task(*args, **options)

    seen: list[Any] = []
    app = Watched("watched", broker="memory://", set_as_current=False)
    add = app.task(name="add")(lambda x, y: x + y)

    add.delay(1, 2)
    add.apply_async((3, 4), countdown=5)

    assert seen == [(("add", (1, 2), {}), None), (("add", (3, 4), None), 5)]


def test_a_task_knows_its_apps_backend_and_has_none_of_its_own(app: Celery) -> None:
    add = app.task(name="add")(lambda x, y: x + y)
    app.backend.store_result("1", 5, "SUCCESS")

    assert add.backend is app.backend
    assert [key for key, _ in app.backend.iter_native(app.ResultSet([app.AsyncResult("1")]))] == ["1"]
    with pytest.raises(ImproperlyConfigured, match="backend of its own"):
        app.task(name="other", backend="redis://host")(lambda: None)
