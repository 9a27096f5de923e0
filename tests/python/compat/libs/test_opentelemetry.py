"""opentelemetry-instrumentation-celery: spans of senders and workers, in one trace."""

from __future__ import annotations

import json
from typing import Any

from ...servers.run import until
from .sides import HERE, PATIENCE, Side


def spans(side: Side) -> list[dict[str, Any]]:
    """What all processes have written so far."""
    found: list[dict[str, Any]] = []
    for file in side.folder.glob("spans-*.json"):
        try:
            found += json.loads(file.read_text())
        except ValueError:
            return []  # It is being written.
    return found


def test_spans_are_those_of_celery(side: Side) -> None:
    side.worker("otel_app", "-c", "2")

    saw = side.run(str(HERE / "otel_client.py"))

    assert (saw["add"], saw["by name"], saw["child"], saw["retried"]) == (5, 11, 23, "second try")
    names = [
        *["apply_async/otel_app.add"] * 3,
        *["apply_async/otel_app.fail"] * 3,
        "apply_async/otel_app.parent",
        "request",
        *["run/otel_app.add"] * 3,
        *["run/otel_app.fail"] * 3,
        "run/otel_app.parent",
    ]
    until(lambda: len(spans(side)) >= len(names), PATIENCE, "all spans")
    found = spans(side)
    assert sorted(span["name"] for span in found) == names

    (request,) = (span for span in found if span["name"] == "request")
    by_id = {span["id"]: span for span in found}
    mine = [span for span in found if span["trace"] == saw["trace"]]
    assert len(mine) == 9
    assert {span["kind"] for span in mine if span["name"].startswith("run/")} == {"CONSUMER"}
    assert {span["kind"] for span in mine if span["name"].startswith("apply_async/")} == {"PRODUCER"}
    (run,) = (
        span
        for span in mine
        if span["attributes"].get("messaging.message.id") == saw["first"] and span["kind"] == "CONSUMER"
    )
    sent = by_id[run["parent"]]
    assert (sent["name"], sent["parent"]) == ("apply_async/otel_app.add", request["id"])
    assert sent["attributes"]["celery.action"] == "apply_async"
    assert sent["attributes"]["messaging.destination"] == "celery"
    assert run["attributes"]["celery.action"] == "run"
    assert run["attributes"]["celery.state"] == "SUCCESS"
    assert run["attributes"]["celery.task_name"] == "otel_app.add"
    assert run["attributes"]["celery.hostname"].startswith("gen")
    assert run["attributes"]["messaging.conversation_id"] == saw["first"]
    (parent,) = (span for span in mine if span["name"] == "run/otel_app.parent")
    grandchild = next(
        span for span in mine if span["name"] == "run/otel_app.add" and by_id[span["parent"]]["parent"] == parent["id"]
    )
    assert grandchild["status"] == "UNSET"

    failed = [span for span in found if span["name"] == "run/otel_app.fail" and span["status"] == "ERROR"]
    assert [(span["description"], span["events"]) for span in failed] == [("bad value", [["exception", "ValueError"]])]
    retried = [span for span in found if "celery.retry.reason" in span["attributes"]]
    assert [span["attributes"]["celery.retry.reason"] for span in retried] == ["Retry in 0s: KeyError('again')"]
    assert retried[0]["attributes"]["celery.state"] == "RETRY"
    again = [span for span in found if span["attributes"].get("celery.retries") == 1 and span["kind"] == "CONSUMER"]
    assert [span["trace"] for span in again] == [retried[0]["trace"]]
