"""sentry-sdk: errors, traces from the request to the task, and check-ins of periodic tasks."""

from __future__ import annotations

import json
from typing import Any

from ...servers.run import until
from .sides import HERE, PATIENCE, Side


def seen(side: Side, kind: str) -> list[dict[str, Any]]:
    """Items of a type, of all processes."""
    lines = [line for file in side.folder.glob("sentry-*.jsonl") for line in file.read_text().splitlines()]
    return [item["item"] for item in map(json.loads, lines) if item["type"] == kind]


def test_errors_and_traces_are_those_of_celery(side: Side) -> None:
    side.worker("sentry_app", "-c", "2")

    saw = side.run(str(HERE / "sentry_client.py"))

    assert (saw["add"], saw["sent by name"], saw["child"]) == (5, 11, 23)
    assert {"baggage", "sentry-trace"} <= set(saw["headers"])
    assert saw["retried"] == "second try"
    assert saw["expected"] == "Expected('expected')"

    events = until(lambda: seen(side, "event"), PATIENCE, "an error in the files")
    assert [event["exception"]["values"][-1]["value"] for event in events] == ["bad value"]
    (event,) = events
    assert event["exception"]["values"][-1]["type"] == "ValueError"
    assert event["exception"]["values"][-1]["mechanism"] == {"type": "celery", "handled": False}
    assert event["tags"]["celery_task_id"] == saw["failed"]
    assert event["extra"]["celery-job"] == {"task_name": "sentry_app.fail", "args": ["bad value"], "kwargs": {}}
    assert event["transaction"] == "sentry_app.fail"
    assert event["exception"]["values"][-1]["stacktrace"]["frames"][-1]["function"] == "fail"

    until(lambda: len(seen(side, "transaction")) >= 9, PATIENCE, "all transactions")
    transactions = seen(side, "transaction")
    of_trace = [one for one in transactions if one["contexts"]["trace"]["trace_id"] == saw["trace"]]
    assert sorted(one["transaction"] for one in of_trace) == [
        "request",
        *["sentry_app.add"] * 3,
        "sentry_app.headers",
        "sentry_app.parent",
    ]
    (request,) = (one for one in of_trace if one["transaction"] == "request")
    submits = [span for span in request["spans"] if span["op"] == "queue.submit.celery"]
    # A task sends itself by its app's `send_task`, which is watched as well.
    assert [span["description"] for span in submits] == [
        *["sentry_app.add"] * 2,
        *["sentry_app.headers"] * 2,
        "sentry_app.add",
        *["sentry_app.parent"] * 2,
    ]
    published = [span for span in request["spans"] if span["op"] == "queue.publish"]
    assert [span["description"] for span in published] == [
        "sentry_app.add",
        "sentry_app.headers",
        "sentry_app.add",
        "sentry_app.parent",
    ]
    assert {span["data"]["messaging.destination.name"] for span in published} == {"celery"}
    assert {span["data"]["messaging.system"] for span in published} == {"redis"}
    ran = next(one for one in of_trace if one["transaction"] == "sentry_app.parent")
    assert ran["contexts"]["trace"]["op"] == "queue.task.celery"
    assert ran["contexts"]["trace"]["parent_span_id"] == submits[-1]["span_id"]
    (process,) = (span for span in ran["spans"] if span["op"] == "queue.process")
    assert process["data"]["messaging.destination.name"] == "celery"
    assert process["data"]["messaging.system"] == "redis"
    assert process["data"]["messaging.message.receive.latency"] >= 0
    outcomes = {one["contexts"]["trace"]["status"] for one in transactions if one["transaction"] == "sentry_app.fail"}
    assert outcomes == {"internal_error", "aborted", "ok"}


def test_periodic_tasks_check_in(side: Side) -> None:
    side.worker("sentry_app", "-c", "1")
    side.start("beat", side.celery("-A", "sentry_app", "beat", "-l", "INFO", "--max-interval", "1"))

    until(lambda: len(seen(side, "check_in")) >= 2, PATIENCE, "two check-ins")
    first, second = seen(side, "check_in")[:2]
    assert {first["status"], second["status"]} == {"in_progress", "ok"}
    assert first["monitor_slug"] == second["monitor_slug"] == "tick"
    assert first["check_in_id"] == second["check_in_id"]
    assert first["monitor_config"]["schedule"] == {"type": "interval", "value": 1, "unit": "minute"}
