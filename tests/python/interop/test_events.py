"""Events: what a monitor of one library hears of a worker of the other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..servers.run import end, tied, until
from ..servers.shared import Shared
from .battery import Place, Side, rabbitmq_place, redis_place

PLACES: dict[str, Callable[[Shared], Place]] = {"redis": redis_place, "rabbitmq": rabbitmq_place}
#: Celery sends the message of the next try before it tells of the retry; here both are one step. What a task tells by
#: itself does not wait for what its worker tells.
UNORDERED = {"again", "no_reason", "tells"}
#: Fields that say when and where: of each only the type is compared.
VARIES = {"timestamp", "local_received", "clock", "pid", "runtime", "eta", "expires", "root_id", "parent_id", "uuid"}


def hear(place: Place, listener: str, worker: str, folder: Path) -> dict[str, Any]:
    """All that the listener hears of a worker that runs the cases."""
    folder.mkdir()
    running = Side(worker, place, folder).worker("-c", "1", "-E", name="events", app="events_app")
    try:
        found: dict[str, Any] = Side(listener, place, folder).client(script="events_client.py")
    finally:
        running.stop(hard=True)
    return found


def story(heard: dict[str, Any], case: str) -> list[dict[str, Any]]:
    """What was told of a case, in order, without what differs from run to run. Clients tell beside workers."""
    events = [event for event in heard["events"] if event.get("uuid") == heard["ids"][case]]
    sent = [event for event in events if event["type"] == "task-sent" and event["retries"] == 0]
    tidy = [comparable(event) for event in sent + [event for event in events if event["type"] != "task-sent"]]
    if case in UNORDERED:
        tidy.sort(key=lambda event: (event["type"], event.get("retries", 0), str(event.get("result"))))
    return tidy


def comparable(event: dict[str, Any]) -> dict[str, Any]:
    tidy: dict[str, Any] = {}
    for name, value in event.items():
        tidy[name] = type(value).__name__ if name in VARIES else value
        if name == "traceback":
            # The worker's own frames differ; what was raised does not.
            last = value.rstrip().splitlines()[-1].partition(":")[0]
            tidy[name] = re.sub(r"^(celeriac|celery)\.", "<library>.", last)
    if event["type"] == "task-sent":
        tidy["hostname"] = re.sub(r"gen\d+", "gen", event["hostname"])
    return tidy


@pytest.fixture(scope="module")
def reference(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return hear(redis_place(shared), "celery", "celery", tmp_path_factory.mktemp("reference") / "x")


@pytest.mark.parametrize(
    ("where", "listener", "worker"),
    [
        ("redis", "celery", "celeriac"),
        ("redis", "celeriac", "celery"),
        ("redis", "celeriac", "celeriac"),
        ("rabbitmq", "celery", "celeriac"),
        ("rabbitmq", "celeriac", "celery"),
    ],
)
def test_a_monitor_hears_the_same_of_both_workers(
    reference: dict[str, Any], shared: Shared, tmp_path: Path, where: str, listener: str, worker: str
) -> None:
    heard = hear(PLACES[where](shared), listener, worker, tmp_path / "x")

    assert len(heard["ids"]) == 14
    for case in heard["ids"]:
        assert story(heard, case) == story(reference, case), case
    kinds = {event["type"] for event in heard["events"]}
    assert {"task-received", "task-started", "task-succeeded", "task-failed", "task-retried"} <= kinds
    assert {"task-revoked", "task-rejected", "task-sent", "task-progress", "worker-heartbeat"} <= kinds
    # A task that tells something itself has the logical time of its process.
    of_worker = [event for event in heard["events"] if event["hostname"] == "events@host"]
    clocks = [event["clock"] for event in of_worker if event["type"] != "task-progress"]
    assert clocks == sorted(set(clocks))
    for event in heard["events"]:
        if event["type"].startswith("worker-"):
            assert event.keys() >= {"hostname", "utcoffset", "pid", "clock", "timestamp", "freq"}


@pytest.mark.parametrize("where", ["redis", "rabbitmq"])
@pytest.mark.parametrize(("listener", "worker"), [("celery", "celeriac"), ("celeriac", "celery")])
def test_the_events_command_prints_what_a_worker_tells(
    shared: Shared, tmp_path: Path, where: str, listener: str, worker: str
) -> None:
    place = PLACES[where](shared)
    side = Side(listener, place, tmp_path)
    output = tmp_path / "dump.log"
    with output.open("wb") as sink:
        command = [side.python, "-u", "-m", listener, "-A", "events_app", "events", "--dump"]
        dump = tied(command, env=side.environment, cwd=tmp_path, stdout=sink, stderr=sink)
    running = None
    try:
        until(lambda: "evdump" in output.read_text(), 40, "the dump has begun")
        running = Side(worker, place, tmp_path).worker("-c", "1", "-E", name="events", app="events_app")
        until(lambda: "events@host" in output.read_text(), 40, f"a word of the worker, see {output}")
        heard = side.client("add", "boom", script="events_client.py")
        wanted = [
            f"task received: events.add({heard['ids']['add']})",
            "task succeeded:",
            "exception=ValueError('bad value', 42)",
        ]
        until(lambda: all(text in output.read_text() for text in wanted), 40, f"{wanted} in {output}")
        running.stop()
        until(lambda: "] shutdown" in output.read_text(), 40, f"the goodbye in {output}")
    finally:
        if running is not None and running.process.poll() is None:
            running.stop(hard=True)
        end(dump, hard=True)


@pytest.mark.parametrize("where", ["redis", "rabbitmq"])
def test_task_events_begin_when_a_monitor_asks_for_them(shared: Shared, tmp_path: Path, where: str) -> None:
    place = PLACES[where](shared)
    running = Side("celeriac", place, tmp_path).worker("-c", "1", name="events", app="events_app")
    try:
        celery = Side("celery", place, tmp_path)
        command = [celery.python, "-m", "celery", "-A", "events_app", "control", "--timeout", "2", "enable_events"]
        tied(command, env=celery.environment, cwd=tmp_path).wait(40)
        until(lambda: "Events of group task enabled" in running.log, 20, "the worker heard it")
        heard = celery.client("add", script="events_client.py")
    finally:
        running.stop(hard=True)

    kinds = [event["type"] for event in heard["events"] if event.get("uuid") == heard["ids"]["add"]]
    assert sorted(kinds) == ["task-received", "task-sent", "task-started", "task-succeeded"]
