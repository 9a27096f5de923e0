"""The middleware that is shipped, with the libraries that it speaks to, through real workers."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .sides import HERE, PYTHON, Side

CLIENT = str(HERE / "shipped_client.py")


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Side]]:
    made: list[Side] = []

    def begin(shipped: str, *options: str, **environment: str) -> Side:
        side = Side("celeriac", tmp_path, redis_url, SHIPPED=shipped, **environment)
        made.append(side)
        side.worker("shipped_app", *options)
        return side

    yield begin
    for one in made:
        one.close()


def written(side: Side, pattern: str) -> list[Any]:
    """What all processes have left, after the worker's end."""
    for program in side.started:
        program.stop()
    found: list[Any] = []
    for file in side.folder.glob(pattern):
        found += [json.loads(line) for line in file.read_text().splitlines()]
    return found


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_a_correlation_id_goes_through_workflows_and_retries_into_the_log(start: Any, pool: str) -> None:
    side = start("correlation", "-P", pool, "-c", "4")

    saw = side.run(CLIENT)

    here = ["request-1", {"tenant": "acme"}]
    assert saw["chain"] == here
    assert saw["group"] == [here, here]
    assert saw["chord"] == here
    assert saw["retried"] == [2, "request-1"]
    assert saw["coroutine"] == "request-1"
    assert len(set(saw["alone"])) == 2, "each call without a request has an id of its own"
    assert "request-1" not in saw["alone"]
    (worker,) = side.started
    worker.stop()
    assert "WARNING [request-1 tenant=acme] shipped_app.add: adding" in worker.log
    assert "WARNING [request-1 tenant=acme] shipped_app.later: awaited" in worker.log
    assert re.search(r"INFO \[request-1\] Task shipped_app.add\[.*\] succeeded in", worker.log)
    assert re.search(r"ERROR \[request-1\] Task shipped_app.fail\[.*\] raised unexpected", worker.log)
    assert re.search(r"INFO \[-\] .* ready\.", worker.log)


def test_spans_follow_the_conventions_for_messaging(start: Any) -> None:
    side = start("messaging", "-c", "2")

    saw = side.run(CLIENT)

    spans = written(side, "spans-*.jsonl")
    by_id = {span["id"]: span for span in spans}
    sent = [span for span in spans if span["kind"] == "PRODUCER"]
    runs = [span for span in spans if span["kind"] == "CONSUMER"]
    assert {span["name"] for span in sent} == {"send celery"}
    assert {span["name"] for span in runs} == {"process celery"}
    (first,) = (span for span in runs if span["attributes"]["messaging.message.id"] == saw["first"])
    client = {"messaging.client.id": first["attributes"]["messaging.client.id"]}
    assert first["attributes"] == {
        **client,
        "messaging.system": "redis",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": "celery",
        "messaging.message.id": saw["first"],
        "messaging.message.conversation_id": saw["first"],
        "celeriac.task.name": "shipped_app.add",
        "celeriac.task.retries": 0,
        "celeriac.task.state": "SUCCESS",
    }
    producer = by_id[first["parent"]]
    assert (producer["kind"], producer["parent"], producer["trace"]) == ("PRODUCER", saw["request"], saw["trace"])
    assert producer["attributes"]["messaging.operation.type"] == "send"
    assert producer["attributes"]["messaging.destination.name"] == "celery"
    assert producer["attributes"]["messaging.message.body.size"] > 10

    (parent,) = (span for span in runs if span["attributes"]["celeriac.task.name"] == "shipped_app.parent")
    (inner,) = (span for span in sent if span["parent"] == parent["id"])
    assert [span["attributes"]["celeriac.task.name"] for span in runs if span["parent"] == inner["id"]] == [
        "shipped_app.add"
    ]
    tries = sorted(
        (span for span in runs if span["attributes"]["messaging.message.id"] == saw["retried"]),
        key=lambda span: span["attributes"]["celeriac.task.retries"],
    )
    assert [span["attributes"]["celeriac.task.state"] for span in tries] == ["RETRY", "RETRY", "SUCCESS"]
    assert len({span["parent"] for span in tries}) == 1, "all tries are below the first message"
    assert [span["links"] for span in tries] == [[], [tries[0]["id"]], [tries[1]["id"]]]
    assert [span["status"] for span in tries] == ["UNSET"] * 3
    assert {span["trace"] for span in tries} == {saw["trace"]}

    ends = {span["attributes"].get("error.type"): span for span in runs if span["status"] == "ERROR"}
    assert set(ends) == {"ValueError", "TimeLimitExceeded"}
    assert ends["ValueError"]["events"] == [["exception", "ValueError"]]
    assert ends["TimeLimitExceeded"]["attributes"]["messaging.message.id"] == saw["stuck"]


def test_spans_have_celerys_names_on_request(start: Any) -> None:
    side = start("celery", "-c", "2")

    saw = side.run(CLIENT)

    spans = written(side, "spans-*.jsonl")
    names = {span["name"] for span in spans if span["trace"] == saw["trace"]}
    assert names == {
        "request",
        *(f"{way}/shipped_app.{task}" for way in ("apply_async", "run") for task in ("add", "later", "parent", "fail")),
    }
    (run,) = (
        span
        for span in spans
        if span["attributes"].get("messaging.message.id") == saw["first"] and span["kind"] == "CONSUMER"
    )
    assert run["attributes"]["celery.state"] == "SUCCESS"
    assert run["attributes"]["celery.task_name"] == "shipped_app.add"
    assert run["attributes"]["messaging.destination"] == "celery"
    retried = [
        span["attributes"]["celery.retry.reason"] for span in spans if "celery.retry.reason" in span["attributes"]
    ]
    assert retried == ["Retry in 0s: KeyError('again')"] * 2


def test_sentry_hears_of_errors_with_their_task_and_trace(start: Any) -> None:
    side = start("sentry", "-c", "2")

    saw = side.run(CLIENT)

    items = written(side, "sentry-*.jsonl")
    errors = [one["item"] for one in items if one["type"] == "event"]
    kinds = {error["exception"]["values"][-1]["type"]: error for error in errors}
    assert set(kinds) == {"ValueError", "TimeLimitExceeded"}
    assert len(errors) == 2
    failure = kinds["ValueError"]
    assert failure["transaction"] == "shipped_app.fail"
    assert failure["tags"]["celeriac.task"] == "shipped_app.fail"
    assert failure["contexts"]["celeriac"]["args"] == ["bad value"]
    assert failure["contexts"]["celeriac"]["queue"] == "celery"
    assert failure["contexts"]["trace"]["trace_id"] == saw["trace"]
    frames = failure["exception"]["values"][-1]["stacktrace"]["frames"]
    assert frames[-1]["function"] == "fail"
    ends = [one["item"] for one in items if one["type"] == "transaction"]
    states = sorted(
        (end["transaction"], end["contexts"]["trace"]["status"]) for end in ends if end["transaction"] != "request"
    )
    assert states == [
        ("shipped_app.add", "ok"),
        ("shipped_app.fail", "aborted"),
        ("shipped_app.fail", "aborted"),
        ("shipped_app.fail", "internal_error"),
        ("shipped_app.fail", "internal_error"),
        ("shipped_app.fail", "ok"),
    ]
    (added,) = (end for end in ends if end["transaction"] == "shipped_app.add")
    assert added["contexts"]["trace"]["trace_id"] == saw["trace"]
    checks = [one["item"] for one in items if one["type"] == "check_in"]
    assert [(check["monitor_slug"], check["status"]) for check in checks] == [("adder", "in_progress"), ("adder", "ok")]


def test_prometheus_counts_what_a_client_publishes(start: Any) -> None:
    side = start("prometheus", "-c", "2")

    saw = side.run(CLIENT)

    lines = dict(line.rsplit(" ", 1) for line in saw["text"].splitlines() if line.startswith("celeriac_"))
    assert lines['celeriac_client_published_total{queue="celery",task="shipped_app.add"}'] == "4.0"
    assert lines['celeriac_client_published_total{queue="celery",task="shipped_app.fail"}'] == "1.0"
    assert lines[f'celeriac_client_publish_errors_total{{error="{saw["refused"]}",task="shipped_app.add"}}'] == "1.0"
    assert lines['celeriac_client_publish_seconds_count{task="shipped_app.add"}'] == "5.0"
    assert not any(name.startswith("celeriac_task_runs") for name in lines)


def test_prometheus_counts_runs_in_children_with_multiprocess_mode(start: Any, tmp_path: Path) -> None:
    shared = tmp_path / "metrics"
    shared.mkdir()
    side = start("prometheus", "-c", "2", PROMETHEUS_MULTIPROC_DIR=str(shared))

    side.run(CLIENT)

    written(side, "nothing")
    script = (
        "from prometheus_client import CollectorRegistry, generate_latest, multiprocess\n"
        "registry = CollectorRegistry()\n"
        "multiprocess.MultiProcessCollector(registry)\n"
        "print(generate_latest(registry).decode())\n"
    )
    text = subprocess.run(
        [PYTHON, "-c", script], env=side.environment, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("celeriac_"))
    assert lines['celeriac_task_runs_total{state="SUCCESS",task="shipped_app.add"}'] == "4.0"
    assert lines['celeriac_task_runs_total{state="FAILURE",task="shipped_app.fail"}'] == "1.0"
