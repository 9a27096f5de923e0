"""Tasks with the middleware that is shipped; what each process saw is written to files. No `import celery` here."""

import asyncio
import json
import logging
import os
from pathlib import Path

from celeriac import Celery
from celeriac.exceptions import Reject
from celeriac.middleware.correlation import Correlation, bind, correlation_id, log_context

BROKER = os.environ["LIBS_BROKER"]
FOLDER = Path(os.environ["LIBS_FOLDER"])
WITH = os.environ["SHIPPED"]

app = Celery("shipped_app", broker=BROKER, backend=os.environ.get("SHIPPED_BACKEND", BROKER))
app.conf.worker_task_log_format = "%(levelname)s [%(correlation_id)s %(log_context)s] %(task_name)s: %(message)s"
app.conf.worker_log_format = "%(levelname)s [%(correlation_id)s] %(message)s"
app.add_middleware(Correlation())
log = logging.getLogger("celery.task")

if WITH in {"messaging", "celery"}:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    from celeriac.middleware.opentelemetry import OpenTelemetry

    class FileExporter(SpanExporter):
        """Appends each span to a file of this process: some are killed."""

        def export(self, spans):
            with (FOLDER / f"spans-{os.getpid()}.jsonl").open("a") as file:
                file.writelines(json.dumps(as_plain(span)) + "\n" for span in spans)
            return SpanExportResult.SUCCESS

    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(FileExporter()))
    app.add_middleware(OpenTelemetry(names=WITH))


def as_plain(span):
    """A span as JSON has it."""
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": f"{span.context.trace_id:032x}",
        "id": f"{span.context.span_id:016x}",
        "parent": f"{span.parent.span_id:016x}" if span.parent else None,
        "links": [f"{link.context.span_id:016x}" for link in span.links],
        "status": span.status.status_code.name,
        "events": [[event.name, event.attributes.get("exception.type")] for event in span.events],
        "attributes": dict(span.attributes),
    }


if WITH == "sentry":
    import sentry_sdk
    from sentry_sdk.transport import Transport

    from celeriac.middleware.sentry import Sentry

    class FileTransport(Transport):
        """Appends each item of an envelope to a file of this process."""

        def capture_envelope(self, envelope):
            with (FOLDER / f"sentry-{os.getpid()}.jsonl").open("a") as file:
                for item in envelope.items:
                    if item.payload.json is not None:
                        file.write(json.dumps({"type": item.type, "item": item.payload.json}, default=str) + "\n")

    sentry_sdk.init(
        dsn="https://key@sentry.example/1",
        transport=FileTransport,
        traces_sample_rate=1.0,
        default_integrations=False,
        auto_enabling_integrations=False,
    )
    app.add_middleware(Sentry(arguments=True, monitors={"shipped_app.add": {"slug": "adder", "config": {}}}))

if WITH == "prometheus":
    from celeriac.middleware.prometheus import Prometheus

    app.add_middleware(Prometheus())


class Expected(Exception):
    """Is no error."""


@app.task
def add(x, y):
    """Returns."""
    log.warning("adding")
    return x + y


@app.task
async def later(x):
    """A coroutine."""
    await asyncio.sleep(0)
    log.warning("awaited")
    return correlation_id()


@app.task
def parent():
    """Sends another task."""
    return add.delay(20, 3).id


@app.task
def known(*_):
    """What is bound here."""
    return [correlation_id(), log_context()]


@app.task(bind=True, max_retries=2, throws=(Expected,), acks_late=True)
def fail(self, how):
    """Raises."""
    if how == "retry" and self.request.retries < 2:
        raise self.retry(countdown=0, exc=KeyError("again"))
    if how == "expected":
        raise Expected(how)
    if how == "reject":
        raise Reject(how, requeue=False)
    if how != "retry":
        raise ValueError(how)
    return [self.request.retries, correlation_id()]


@app.task(time_limit=0.5)
def stuck():
    """Is killed."""
    import time

    time.sleep(60)


__all__ = ["app", "bind"]
