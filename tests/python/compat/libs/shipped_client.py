"""Sends tasks of `shipped_app`, and tells what it saw."""

import json

from shipped_app import WITH, add, app, bind, fail, known, later, parent, stuck

from celeriac import chain, chord, group
from celeriac.exceptions import TimeLimitExceeded

saw = {}


def correlated():
    """Ids that go through everything."""
    with bind(correlation_id="request-1", tenant="acme"):
        saw["chain"] = chain(add.s(1, 1), known.s()).apply_async().get(timeout=20)
        saw["group"] = group(known.s(), known.si()).apply_async().get(timeout=20)
        saw["chord"] = chord([add.s(1, 1), add.s(2, 2)], known.s()).apply_async().get(timeout=20)
        saw["retried"] = fail.delay("retry").get(timeout=20)
        saw["coroutine"] = later.delay(1).get(timeout=20)
        saw["failed"] = repr(fail.delay("bad value").get(timeout=20, propagate=False))
    saw["alone"] = [known.delay().get(timeout=20)[0] for _ in range(2)]


def traced():
    """Within a span of its own."""
    from opentelemetry import trace

    with trace.get_tracer("client").start_as_current_span("request") as span:
        saw["trace"] = f"{span.get_span_context().trace_id:032x}"
        saw["request"] = f"{span.get_span_context().span_id:016x}"
        first = add.delay(2, 3)
        saw["first"] = first.id
        first.get(timeout=20)
        app.send_task("shipped_app.later", (5,)).get(timeout=20)
        child = parent.delay().get(timeout=20)
        app.AsyncResult(child).get(timeout=20)
        again = fail.delay("retry")
        saw["retried"] = again.id
        again.get(timeout=20)
    fail.delay("bad value").get(timeout=20, propagate=False)
    fail.delay("expected").get(timeout=20, propagate=False)
    saw["stuck"] = stuck.delay().id
    assert isinstance(app.AsyncResult(saw["stuck"]).get(timeout=20, propagate=False), TimeLimitExceeded)


def watched():
    """By Sentry."""
    import sentry_sdk

    with sentry_sdk.start_transaction(op="http.server", name="request") as transaction:
        saw["trace"] = transaction.trace_id
        saw["sum"] = add.delay(2, 3).get(timeout=20)
        fail.delay("bad value").get(timeout=20, propagate=False)
    for how in ("expected", "retry"):
        fail.delay(how).get(timeout=20, propagate=False)
    stuck.delay().get(timeout=20, propagate=False)
    sentry_sdk.flush(5)


def counted():
    """By Prometheus."""
    from prometheus_client import REGISTRY, generate_latest

    add.delay_many([(1, 2)] * 3)
    add.delay(2, 3).get(timeout=20)
    fail.delay("bad value").get(timeout=20, propagate=False)
    try:
        app.send_task("shipped_app.add", (1,), serializer="no such")
    except Exception as exc:
        saw["refused"] = type(exc).__name__
    saw["text"] = generate_latest(REGISTRY).decode()


{"correlation": correlated, "messaging": traced, "celery": traced, "sentry": watched, "prometheus": counted}[WITH]()
print(json.dumps(saw))
