"""`doctor`: what it finds wrong with settings, stores and queues. Real servers: integration/test_doctor_servers.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celery
from celeriac.bin import checks

from .conftest import Shop

REPORT: dict[str, Any] = {
    "version": "7.0.15",
    "clock_offset_ms": 3,
    "workers": 1,
    "consumers": None,
    "settings": {"maxmemory-policy": "noeviction", "appendonly": "yes", "save": ""},
    "advice": [],
}


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("checked", broker="memory://", backend="memory://", set_as_current=False)
    yield made
    made.close()


def texts(findings: Iterator[checks.Finding], level: str = "warning") -> str:
    return "\n".join(f"{one.about}: {one.text}; {one.advice}" for one in findings if one.level == level)


def test_a_good_set_up_is_fine(shop: Shop) -> None:
    result = shop.run("doctor")

    assert result.exit_code == 0, result.stdout
    assert "ok broker: sqlite:///shop.db" in result.stdout
    assert "ok result backend: sqlite:///shop.db" in result.stdout
    assert "0 errors, 0 warnings" in result.stderr


def test_messages_that_nobody_takes_are_told(shop: Shop) -> None:
    for _ in range(3):
        shop.app.send_task("shop.add", (1, 2), queue="forgotten")

    result = shop.run("doctor", "--json")

    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["exit_code"] == 1
    [warning] = [one for one in found["findings"] if one["level"] == "warning"]
    assert "3 in forgotten" in warning["text"]
    assert "-Q" in warning["advice"]


def test_a_broker_that_cannot_be_reached_is_an_error_without_its_password(shop: Shop) -> None:
    result = shop.run("-b", "redis://user:geheim@127.0.0.1:1/0", "doctor")

    assert result.exit_code == 2
    assert "cannot reach broker redis://user:**@127.0.0.1:1/0" in result.stdout
    assert "geheim" not in result.output


def test_settings_that_are_a_risk_are_told(app: Celery) -> None:
    app.conf.accept_content = ["json", "pickle"]
    app.conf.result_expires = None
    app.task(lambda: None, name="endless")
    app.task(lambda: None, name="late", acks_late=True, time_limit=5)

    found = texts(checks.settings(app))
    assert "pickle is accepted" in found
    assert "endless: a call that hangs holds its slot for ever" in found
    assert "late: acknowledged late, but not run again" in texts(checks.settings(app), "info")
    assert "results are kept for ever" in texts(checks.results(app, None))


def test_a_limit_for_all_tasks_is_enough(app: Celery) -> None:
    app.task(lambda: None, name="endless")
    app.conf.task_time_limit = 60

    assert texts(checks.settings(app)) == ""


def test_an_app_without_tasks_and_without_results_is_told(app: Celery) -> None:
    bare = Celery("bare", broker="memory://", backend="disabled", set_as_current=False)
    assert "the app has no task" in texts(checks.settings(bare))

    bare.task(lambda: 1, name="counts")
    assert "there is none, and counts may be asked" in texts(checks.results(bare, None), "info")
    bare.conf.task_ignore_result = True
    assert texts(checks.results(bare, None), "info") == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"maxmemory-policy": "allkeys-lru"},
            "throws messages away when its memory is full (maxmemory-policy allkeys-lru)",
        ),
        ({"appendonly": "no"}, "keeps nothing on disk: a restart of it loses all messages"),
    ],
)
def test_a_server_that_loses_messages_is_told(app: Celery, change: dict[str, str], says: str) -> None:
    report = {**REPORT, "settings": {**REPORT["settings"], **change}}

    assert says in texts(checks.broker(app, report))
    assert texts(checks.broker(app, REPORT)) == ""


def test_a_clock_that_is_wrong_is_told(app: Celery) -> None:
    assert "+90.0 s off" in texts(checks.broker(app, {**REPORT, "clock_offset_ms": 90_000}))
    assert "agrees" in texts(checks.broker(app, REPORT), "ok")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://broker.example//", "the login is guest"),
        ("amqp://guest:guest@broker.example//", "the login is guest"),
        ("redis://cache.example:6379/0", "no password, over the network"),
        ("redis://localhost:6379/0;redis://cache.example/0", "no password, over the network"),
        ("amqp://guest:guest@localhost//", ""),
        ("redis://:secret@cache.example/0", ""),
        ("amqps://me:secret@broker.example//", ""),
        ("redis+socket:///run/redis.sock", ""),
    ],
)
def test_logins_that_everyone_knows_are_told(url: str, says: str) -> None:
    app = Celery("login", broker=url, set_as_current=False)

    found = texts(checks.secrets(app))

    assert says in found
    assert bool(found) == bool(says)
    assert "secret" not in found


def test_a_queue_without_consumer_is_told_where_the_broker_counts_them(app: Celery) -> None:
    waiting = {"taken": 5, "alone": 2}
    report = {**REPORT, "workers": None, "consumers": {"taken": 1, "alone": 0}}

    assert "no queue of these has a consumer: 2 in alone;" in texts(checks._unconsumed(waiting, report))


def test_an_embedded_store_on_a_network_file_system_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("net", broker="sqlite:////mnt/share/q.db", set_as_current=False)
    assert texts(checks.embedded(app), "error") == ""

    monkeypatch.setattr(checks, "_file_system", lambda path: "nfs4" if path == "/mnt/share/q.db" else "ext4")
    assert "/mnt/share/q.db is on a network file system (nfs4)" in texts(checks.embedded(app), "error")


def test_the_file_system_of_a_path_is_found() -> None:
    assert checks._file_system("/proc/self") == "proc"


def test_dead_letters_are_told(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    status = [{"name": "celery", "ready": 0, "claimed": 0, "parked": 0, "dead": 4}]
    client = type("Client", (), {"queues": lambda self: status})()
    monkeypatch.setattr(Celery, "client", client)

    assert "dead letters: 4 of celery" in texts(checks.queues(app, REPORT))


def test_classic_queues_of_rabbitmq_are_told(app: Celery) -> None:
    assert "celery: classic" in texts(checks._queue_types(app), "info")
    quorum = Celery("q", broker="memory://", set_as_current=False)
    quorum.conf.task_default_queue_type = "quorum"
    assert texts(checks._queue_types(quorum), "info") == ""
