"""Records against those that a real Celery wrote: the same keys in the same order, the same values but for
ids, times and the frames of tracebacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celeriac.exceptions import Ignore, Reject

GOLDEN = Path(__file__).parents[3] / "golden"


class DemoError(Exception):
    """As the application of the golden data defines it."""


DemoError.__module__ = "capture"


def register(app: Any) -> None:
    """The demo tasks whose results were captured."""

    def task(name: str, **options: Any) -> Any:
        return app.task(name=f"demo.{name}", **options)

    @task("add")
    def add(x, y):  # type: ignore[no-untyped-def]
        return x + y

    add.__qualname__ = "register.<locals>.add"

    @task("callback")
    def callback(value: Any) -> Any:
        return value

    @task("errback_old")
    def errback_old(task_id: str) -> str:
        return task_id

    @task("boom")
    def boom(*_: Any) -> None:
        raise ValueError("bad value", 42)

    @task("boom_custom")
    def boom_custom() -> None:
        raise DemoError("custom", {"code": 7})

    @task("boom_unserializable")
    def boom_unserializable() -> None:
        raise DemoError("has an object", object)

    @task("boom_cause")
    def boom_cause() -> None:
        try:
            {}["missing"]  # type: ignore[index]
        except KeyError as exc:
            raise DemoError("outer") from exc

    @task("retry_later", bind=True, max_retries=3)
    def retry_later(self: Any, x: Any, key: Any = None) -> None:
        raise self.retry(exc=ValueError("again"), countdown=3600)

    @task("retry_exhausted", bind=True, max_retries=0)
    def retry_exhausted(self: Any, with_exc: bool) -> None:
        raise self.retry(exc=ValueError("final") if with_exc else None)

    @task("autoretry", autoretry_for=(KeyError,), retry_backoff=300, retry_jitter=False, max_retries=5)
    def autoretry() -> None:
        raise KeyError("flaky")

    @task("rejected")
    def rejected() -> None:
        raise Reject("no thanks", requeue=False)

    @task("ignored", bind=True)
    def ignored(self: Any) -> None:
        self.update_state(state="CUSTOM", meta={"kept": True})
        raise Ignore

    @task("unserializable")
    def unserializable() -> object:
        return object()

    @task("nothing")
    def nothing() -> None:
        return None

    @task("sleep")
    def sleep(seconds: float) -> float:
        return seconds

    @task("die")
    def die() -> None:
        """Ends its process; here the supervisor says that it did."""

    @task("progress", bind=True)
    def progress(self: Any) -> str:
        self.update_state(state="PROGRESS", meta={"current": 3, "total": 10})
        return "done"


def golden(case: str) -> tuple[str, dict[str, Any]]:
    """Task id and record of a case."""
    data = json.loads((GOLDEN / f"{case}.json").read_text())
    task_id = data["task_id"]
    record: dict[str, Any] = json.loads(data["keys"][f"celery-task-meta-{task_id}"]["value"])
    return task_id, record


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what differs from run to run."""
    found = dict(record)
    assert (found["date_done"] is None) or found["date_done"].endswith("+00:00")
    found["date_done"] = found["date_done"] is not None
    if found["traceback"] is not None:
        lines = found["traceback"].splitlines()
        assert lines[0] == "Traceback (most recent call last):" or "Traceback (most recent call last):" in lines
        # Our classes are named by our modules in a traceback, Celery's by theirs.
        found["traceback"] = lines[-1].rpartition("exceptions.")[2]
    return found


RUNS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "success": ("demo.add", (2, 3), {}),
    "success_none": ("demo.nothing", (), {}),
    "failure": ("demo.boom", (), {}),
    "failure_custom": ("demo.boom_custom", (), {}),
    "failure_unserializable_args": ("demo.boom_unserializable", (), {}),
    "failure_cause": ("demo.boom_cause", (), {}),
    "failure_wrong_args": ("demo.add", (1, 2, 3), {}),
    "failure_retries_exhausted_exc": ("demo.retry_exhausted", (True,), {}),
    "failure_retries_exhausted": ("demo.retry_exhausted", (False,), {}),
    "retry": ("demo.retry_later", (1,), {"key": "k"}),
    "retry_autoretry": ("demo.autoretry", (), {}),
    "rejected": ("demo.rejected", (), {}),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_record_is_what_celery_writes(case: str, bench: Any) -> None:
    register(bench.app)
    name, args, kwargs = RUNS[case]
    task_id, expected = golden(f"redis_results/{case}")

    answer = bench.run(name, args, kwargs, headers={"id": task_id})

    found = comparable(answer.record)
    wanted = comparable(expected)
    if case == "failure_wrong_args":
        found["traceback"] = wanted["traceback"]
        found["result"]["exc_message"] = [found["result"]["exc_message"][0].partition("add()")[2]]
        wanted["result"]["exc_message"] = [wanted["result"]["exc_message"][0].partition("add()")[2]]
    assert found == wanted
    assert list(answer.record) == list(expected)
    assert answer.results[0].task_id == task_id
    assert answer.results[0].state == expected["status"]


def test_a_result_that_cannot_be_encoded_fails_as_with_celery(bench: Any) -> None:
    register(bench.app)
    task_id, expected = golden("redis_results/failure_encode")

    answer = bench.run("demo.unserializable", headers={"id": task_id})

    assert answer.kind == "failure"
    assert answer.record["status"] == "FAILURE"
    assert answer.record["result"]["exc_type"] == expected["result"]["exc_type"] == "EncodeError"
    assert answer.record["result"]["exc_module"] == expected["result"]["exc_module"]
    assert "Object of type object is not JSON serializable" in str(answer.record["result"]["exc_message"])
    assert list(answer.record) == list(expected)


@pytest.mark.parametrize(
    ("case", "name", "args", "more"),
    [
        ("failure_not_registered", "demo.unknown", (1,), {"mode": "unknown"}),
        ("failure_time_limit", "demo.sleep", (20,), {"mode": "timed_out", "limit": 1.0}),
        ("failure_worker_lost", "demo.die", (), {"mode": "lost", "detail": "signal 9 (SIGKILL)", "tag": 19}),
        ("revoked_expired", "demo.add", (1, 1), {"mode": "revoked", "detail": "expired"}),
        ("revoked_terminated", "demo.sleep", (30,), {"mode": "revoked", "detail": "terminated"}),
    ],
)
def test_the_record_of_a_task_that_did_not_run_is_what_celery_writes(
    case: str, name: str, args: tuple[Any, ...], more: dict[str, Any], bench: Any
) -> None:
    register(bench.app)
    task_id, expected = golden(f"redis_results/{case}")

    answer = bench.run(name, args, headers={"id": task_id}, **more)

    assert comparable(answer.record) == comparable(expected)
    assert list(answer.record) == list(expected)


def test_custom_states_go_out_before_the_outcome(bench: Any) -> None:
    register(bench.app)
    task_id, expected = golden("redis_results/custom_state")

    answer = bench.run("demo.progress", headers={"id": task_id})

    [(tag, update)] = bench.channel.updates
    assert tag == answer.tag
    assert json.loads(update.record) == expected
    assert answer.record["status"] == "SUCCESS"


def test_an_ignored_task_keeps_the_state_that_it_set(bench: Any) -> None:
    register(bench.app)
    task_id, expected = golden("redis_results/ignored_custom")

    answer = bench.run("demo.ignored", headers={"id": task_id})

    [(_, update)] = bench.channel.updates
    assert json.loads(update.record) == expected
    assert (answer.kind, answer.results) == ("ignored", [])


EXTENDED: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], dict[str, Any]]] = {
    "success": ("demo.add", (2, 3), {}, {}),
    "failure": ("demo.boom", (), {}, {}),
    "retry": ("demo.retry_later", (1,), {"key": "k"}, {}),
    "revoked_terminated": ("demo.sleep", (30,), {}, {"mode": "revoked", "detail": "terminated"}),
}


@pytest.mark.parametrize("case", EXTENDED)
def test_an_extended_record_is_what_celery_writes(case: str, make_bench: Callable[..., Any]) -> None:
    bench = make_bench(result_extended=True)
    register(bench.app)
    name, args, kwargs, more = EXTENDED[case]
    task_id, expected = golden(f"redis_results_extended/{case}")

    answer = bench.run(name, args, kwargs, headers={"id": task_id}, **more)

    assert comparable(answer.record) == comparable(expected)
    assert list(answer.record) == list(expected)


def test_every_later_step_of_a_failed_chain_fails_with_it(bench: Any) -> None:
    register(bench.app)
    data = json.loads((GOLDEN / "redis_results/failure_chain.json").read_text())
    expected = {
        key.removeprefix("celery-task-meta-"): json.loads(entry["value"]) for key, entry in data["keys"].items()
    }
    first = data["messages_published"][0]["decoded"]
    body = first["body (decoded)"]
    headers = first["headers"]
    assert headers["id"] in expected

    answer = bench.run("demo.boom", (), embed=body[2], headers=headers)

    found = {record.task_id: json.loads(record.record) for record in answer.results}
    assert found.keys() == expected.keys()
    for task_id, record in expected.items():
        assert comparable(found[task_id]) == comparable(record)
    assert answer.publications == []


def test_a_linked_task_is_sent_with_the_result_in_front(bench: Any) -> None:
    register(bench.app)
    link = {"task": "demo.callback", "args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}

    answer = bench.run("demo.add", (2, 2), embed={"callbacks": [link]})

    [publication] = answer.publications
    assert publication.headers["task"] == "demo.callback"
    assert publication.headers["parent_id"] == publication.headers["root_id"] == answer.results[0].task_id
    assert publication.headers["group"] is None
    assert json.loads(publication.body)[0] == [4]
    assert answer.record["children"] == [[[publication.headers["id"], None], None]]


def test_several_links_are_sent_as_one_group(bench: Any) -> None:
    register(bench.app)
    links = [
        {"task": "demo.add", "args": [16], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False},
        {"task": "demo.callback", "args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False},
    ]

    answer = bench.run("demo.add", (2, 2), embed={"callbacks": links})

    assert [json.loads(one.body)[0] for one in answer.publications] == [[4, 16], [4]]
    [group] = {one.headers["group"] for one in answer.publications}
    ids = [one.headers["id"] for one in answer.publications]
    assert answer.record["children"] == [[[group, None], [[[one, None], None] for one in ids]]]


def test_an_old_error_link_is_sent_the_failed_id_in_a_group(bench: Any) -> None:
    register(bench.app)
    link = {
        "task": "demo.errback_old",
        "args": [],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }

    answer = bench.run("demo.boom", embed={"errbacks": [link]})

    task_id = answer.results[0].task_id
    [publication] = answer.publications
    assert json.loads(publication.body)[0] == [task_id]
    assert publication.headers["group"] is not None
    assert publication.headers["parent_id"] == task_id
    assert answer.record["children"] == []


def test_a_chain_sends_its_next_step_with_the_rest(bench: Any) -> None:
    register(bench.app)
    steps = [
        {"task": "demo.add", "args": [n], "kwargs": {}, "options": {"task_id": f"step-{n}"}, "subtask_type": None,
         "immutable": False}
        for n in (3, 2)
    ]  # fmt: skip

    answer = bench.run("demo.add", (1, 1), embed={"chain": steps})

    [publication] = answer.publications
    args, _, embed = json.loads(publication.body)
    assert publication.headers["id"] == "step-2"
    assert args == [2, 2]
    assert [step["options"]["task_id"] for step in embed["chain"]] == ["step-3"]
    assert answer.record["children"] == [[["step-2", None], None]]
