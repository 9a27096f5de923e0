"""How requests end that did not run, or not to their end: nobody who waits for them is forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac.exceptions import Ignore, Reject

from .conftest import Answer, Bench, document

NEXT = {
    "task": "t",
    "args": [],
    "kwargs": {},
    "options": {"task_id": "next"},
    "subtask_type": None,
    "immutable": False,
}
CHAIN = {"chain": [NEXT]}


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()

    @bench.app.task(name="t")
    def task() -> None:
        """Nothing."""

    @bench.app.task(name="gives itself back")
    def gives_back() -> None:
        raise Reject("not me", requeue=True)

    @bench.app.task(name="gives itself back later", acks_late=True)
    def gives_back_later() -> None:
        raise Reject("not me", requeue=True)

    @bench.app.task(name="ignores itself")
    def ignores() -> None:
        raise Ignore("nothing of it")

    yield bench
    bench.app.close()


def ends(answer: Answer) -> list[tuple[str, str, str]]:
    """Of each record the id, the state, and the class of the exception."""
    documents = [document(record) for record in answer.results]
    return [(found["task_id"], found["status"], found["result"]["exc_type"]) for found in documents]


ID = "11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize(
    ("name", "mode", "kind", "state", "error"),
    [
        ("t", {"mode": "lost", "detail": "signal 9 (SIGKILL)"}, "failure", "FAILURE", "WorkerLostError"),
        ("t", {"mode": "timed_out", "limit": 3.0}, "failure", "FAILURE", "TimeLimitExceeded"),
        ("t", {"mode": "revoked", "detail": "expired"}, "revoked", "REVOKED", "TaskRevokedError"),
        ("nobody knows", {"mode": "unknown"}, "rejected", "FAILURE", "NotRegistered"),
        ("nobody knows", {"mode": "lost", "detail": "it is gone"}, "failure", "FAILURE", "WorkerLostError"),
    ],
)
def test_what_follows_ends_likewise(name: str, mode: Any, kind: str, state: str, error: str, bench: Bench) -> None:
    answer = bench.run(name, embed=CHAIN, **mode)

    assert answer.kind == kind
    assert ends(answer) == [(ID, state, error), ("next", state, error)]


def test_a_task_that_is_not_known_calls_its_error_links(bench: Bench) -> None:
    link = {**NEXT, "task": "elsewhere", "options": {}}

    answer = bench.run("nobody knows", mode="unknown", embed={"errbacks": [link]})

    [message] = answer.publications
    assert json.loads(message.body)[0] == [ID]


@pytest.mark.parametrize("mode", ["refused", "run"])
def test_a_refused_message_is_recorded_and_counted_for_its_group(mode: str, bench: Bench) -> None:
    headers = {"group": "g", "group_index": 3}

    answer = bench.run("t", mode=mode, detail="it is too large", body=b"garbage", headers=headers)

    assert ends(answer) == [(ID, "FAILURE", "InvalidTaskError")]
    assert [(part.group_id, part.group_index, part.state) for part in answer.parts] == [("g", 3, "FAILURE")]


def test_a_task_acknowledged_early_cannot_give_itself_back_when_others_wait(bench: Bench) -> None:
    assert bench.run("gives itself back").kind == "requeued"
    assert bench.run("gives itself back later", embed=CHAIN).kind == "requeued"

    answer = bench.run("gives itself back", embed=CHAIN)

    assert answer.kind == "rejected"
    assert ends(answer) == [(ID, "FAILURE", "Reject"), ("next", "FAILURE", "Reject")]


def test_what_follows_an_ignored_task_fails_and_the_task_leaves_nothing(bench: Bench) -> None:
    assert bench.run("ignores itself").results == []
    assert ends(bench.run("ignores itself", embed=CHAIN)) == [("next", "FAILURE", "Ignore")]


def test_a_lost_task_whose_success_is_stored_has_not_failed(bench: Bench) -> None:
    # The store in memory is one for all tests of a process.
    headers = {"id": "has ended", "group": "g", "group_index": 0}
    bench.app.client.store(bench.run("t", headers=headers).results)
    chord = {"task": "t", "args": [], "kwargs": {}, "options": {"task_id": "body"}, "subtask_type": None}

    answer = bench.run("t", mode="lost", detail="it is gone", embed={"chord": chord}, headers=headers)

    assert (answer.kind, answer.results) == ("success", [])
    assert [(part.task_id, part.state) for part in answer.parts] == [("has ended", "SUCCESS")]
