"""Large payloads: arguments and results beside the queue, there as long as anybody may need them, and not longer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import chord, group
from celeriac.exceptions import PayloadMissing

from .conftest import Project, wait_until

TASKS = """
    @app.task(name="length")
    def length(text):
        return len(text)

    @app.task(name="make")
    def make(size):
        return "x" * size

    @app.task(name="double", bind=True, max_retries=1)
    def double(self, text):
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return text * 2

    @app.task(name="kept", acks_late=True, reject_on_worker_lost=True)
    def kept(text):
        if not (here / "died").exists():
            mark("died")
            os._exit(1)
        return len(text)

    @app.task(name="quiet", ignore_result=True)
    def quiet(text):
        time.sleep(0.05)

    @app.task(name="fails")
    def fails(size):
        raise ValueError("y" * size)
"""
LARGE = 400_000


@pytest.fixture(params=["sqlite", "redis", "rabbitmq"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """A project on each broker with a directory for payloads; results of RabbitMQ's are on Redis."""
    match request.param:
        case "sqlite":
            made = Project(tmp_path)
        case "redis":
            made = Project(tmp_path, request.getfixturevalue("redis_url"))
        case _:
            made = Project(tmp_path, request.getfixturevalue("rabbitmq_url"), request.getfixturevalue("redis_url"))
    yield from prepared(made, f"file://{tmp_path / 'payloads'}")


@pytest.fixture(params=["file", "backend"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """A project with each kind of store."""
    store = f"file://{tmp_path / 'payloads'}" if request.param == "file" else "backend"
    yield from prepared(Project(tmp_path), store)


def prepared(made: Project, store: str) -> Iterator[Project]:
    made.client.conf.update(large_payload_store=store, large_payload_size=100_000)
    made.write(TASKS, large_payload_store=store, large_payload_size=100_000)
    yield made
    made.close()


def files(project: Project) -> list[Path]:
    return [path for path in (project.folder / "payloads").glob("??/*") if path.is_file()]


def test_arguments_and_results_go_to_the_store_and_are_deleted_in_time(place: Project) -> None:
    sent = place.send("length", "x" * LARGE)
    assert [path.stat().st_mode & 0o777 for path in files(place)] == [0o600]
    made, retried = place.send("make", LARGE), place.send("double", "ab" * 100_000)
    worker = place.start("-c", "1")

    assert sent.get(timeout=20) == LARGE
    assert made.get(timeout=20) == "x" * LARGE
    assert retried.get(timeout=20) == "ab" * 200_000

    # What is left are the two results.
    wait_until(lambda: len(files(place)) == 2, "the arguments are deleted")
    made.forget()
    assert len(files(place)) == 1
    assert worker.stop() == 0


def test_each_kind_of_store_keeps_them(either: Project) -> None:
    either.start("-c", "1")

    assert either.send("length", "x" * LARGE).get(timeout=20) == LARGE
    assert either.send("make", LARGE).get(timeout=20) == "x" * LARGE
    with pytest.raises(ValueError, match="y{1000}"):
        either.send("fails", LARGE).get(timeout=20)
    results = either.client.send_many(
        either.client.signature("length", ("x" * size,)) for size in (10, LARGE, 20, LARGE)
    )
    assert [result.get(timeout=20) for result in results] == [10, LARGE, 20, LARGE]


def test_a_redelivery_finds_its_arguments(either: Project) -> None:
    result = either.send("kept", "x" * LARGE)
    either.start("-c", "1")

    assert result.get(timeout=20) == LARGE
    assert either.marks("died") == "x"


def test_arguments_of_a_task_without_a_result_are_deleted_too(place: Project) -> None:
    place.send("quiet", "x" * LARGE)
    group(
        [place.client.signature("length", ("x" * size,)) for size in (LARGE, LARGE + 1)], app=place.client
    ).apply_async()
    part = place.client.signature("length", ("x" * LARGE,))
    total = chord([part, part.clone()], place.client.signature("celery.accumulate"), app=place.client).apply_async()
    assert len(files(place)) >= 5

    place.start("-c", "2")

    assert total.get(timeout=20) == [[LARGE, LARGE]]
    wait_until(lambda: files(place) == [], "all are deleted")


def test_what_is_due_later_is_kept_for_longer(place: Project) -> None:
    place.send("length", "x" * LARGE, countdown=30 * 24 * 3600)
    [kept] = files(place)
    assert kept.stat().st_mtime - time.time() > 36 * 24 * 3600


def test_small_ones_are_sent_as_they_are(either: Project) -> None:
    either.start("-c", "1")
    assert either.send("length", "x" * 90_000).get(timeout=20) == 90_000
    assert files(either) == []


def test_workflows_carry_large_values_from_step_to_step(either: Project) -> None:
    either.start("-c", "1")
    chained = either.client.signature("make", (LARGE,)) | either.client.signature("length")
    assert chained.apply_async().get(timeout=20) == LARGE


def test_a_payload_that_is_gone_is_a_clear_error_and_a_dead_letter(place: Project) -> None:
    result = place.send("length", "x" * LARGE)
    for path in files(place):
        path.unlink()
    place.start("-c", "1")

    with pytest.raises(PayloadMissing, match="is not in the large_payload_store"):
        result.get(timeout=20)
    letters = wait_until(lambda: place.client.client.dead_letters(), "the dead letter")
    assert [letter["headers"]["id"] for letter in letters] == [result.id]


def test_a_result_that_is_gone_or_cannot_be_reached_is_a_clear_error(either: Project) -> None:
    result = either.send("make", LARGE)
    either.start("-c", "1")
    wait_until(lambda: either.state(result.id) == "SUCCESS", "it has ended")
    either.client.conf.large_payload_store = None
    either.client._large_payloads = None

    with pytest.raises(PayloadMissing, match="set large_payload_store"):
        either.client.AsyncResult(result.id).get(timeout=20)


def test_a_worker_without_a_store_refuses_such_a_message_by_name(tmp_path: Path) -> None:
    made = Project(tmp_path)
    made.client.conf.update(large_payload_store="backend")
    made.write(TASKS)
    try:
        made.send("length", "x" * LARGE)
        made.start("-c", "1")
        letter = wait_until(lambda: made.client.client.dead_letters(), "the dead letter")[0]
        assert letter["reason"] == "disallowed"
        assert "application/x-celeriac-large" in letter["detail"]
    finally:
        made.close()


def test_a_worker_sweeps_what_has_expired(place: Project) -> None:
    payloads = place.client.large_payloads
    assert payloads is not None
    old, new = payloads.put(b"old", 0.001), payloads.put(b"new", 600)
    draft = place.folder / "payloads" / "aa" / f"{'a' * 32}.part"
    draft.parent.mkdir(exist_ok=True)
    draft.write_bytes(b"left")
    os.utime(draft, (time.time() - 7200, time.time() - 7200))

    place.start("-c", "1")

    wait_until(lambda: len(files(place)) == 1, "the others are removed")
    assert payloads.get(new) == b"new"
    with pytest.raises(PayloadMissing):
        payloads.get(old)


def test_references_lead_nowhere_but_into_the_store(place: Project) -> None:
    secret = place.folder / "secret"
    secret.write_bytes(b"secret")
    payloads: Any = place.client.large_payloads
    for reference in (
        "../secret",
        "../../secret",
        str(secret),
        "",
        "a" * 31,
        "A" * 32,
        "a" * 5000,
        None,
        7,
        f"{'a' * 32}\n",
    ):
        with pytest.raises(PayloadMissing):
            payloads.get({"ref": reference, "size": 6})
    member = payloads.put(b"four", 60)
    for wrong in ({**member, "size": 3}, {**member, "size": 1 << 40}, {"ref": member["ref"]}, None, "text"):
        with pytest.raises(PayloadMissing):
            payloads.get(wrong)
    assert json.dumps(member)
