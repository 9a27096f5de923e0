"""Sends tasks within a span of its own."""

import json

import otel_app
from opentelemetry import trace

otel_app.start()
saw = {}
with trace.get_tracer("client").start_as_current_span("request") as span:
    saw["trace"] = f"{span.get_span_context().trace_id:032x}"
    first = otel_app.add.delay(2, 3)
    saw["add"] = first.get(timeout=20)
    saw["first"] = first.id
    saw["by name"] = otel_app.app.send_task("otel_app.add", (5, 6)).get(timeout=20)
    child = otel_app.parent.delay()
    saw["child"] = otel_app.app.AsyncResult(child.get(timeout=20)).get(timeout=20)
otel_app.fail.delay("bad value").get(timeout=20, propagate=False)
saw["retried"] = otel_app.fail.delay("retry").get(timeout=20)
otel_app.save()
print(json.dumps(saw))
