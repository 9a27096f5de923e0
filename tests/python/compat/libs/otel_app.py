"""Tasks traced by OpenTelemetry, with its exporter in memory; what each process saw is written to a file."""

import json
import os
from pathlib import Path

from celery import Celery, signals
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

BROKER = os.environ["LIBS_BROKER"]
FOLDER = Path(os.environ["LIBS_FOLDER"])

exporter = InMemorySpanExporter()
reader = InMemoryMetricReader()


def as_plain(span):
    """A span as JSON has it."""
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": f"{span.context.trace_id:032x}",
        "id": f"{span.context.span_id:016x}",
        "parent": f"{span.parent.span_id:016x}" if span.parent else None,
        "status": span.status.status_code.name,
        "description": span.status.description,
        "events": [[event.name, event.attributes.get("exception.type")] for event in span.events],
        "attributes": {
            key: list(value) if isinstance(value, tuple) else value for key, value in span.attributes.items()
        },
    }


def start(**kwargs):
    """As OpenTelemetry's documentation says: in every process that runs or sends tasks."""
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    CeleryInstrumentor().instrument(meter_provider=MeterProvider(metric_readers=[reader]))


def save(**kwargs):
    """Writes down what this process has seen so far."""
    spans = [as_plain(span) for span in exporter.get_finished_spans()]
    (FOLDER / f"spans-{os.getpid()}.json").write_text(json.dumps(spans))


signals.worker_process_init.connect(start, weak=False)

app = Celery("otel_app", broker=BROKER, backend=BROKER)


@signals.worker_process_init.connect(weak=False)
def save_after_tasks(**kwargs):
    """After the instrumentor's own handler, which ends the span."""
    signals.task_postrun.connect(save, weak=False)


@app.task
def add(x, y):
    """Returns."""
    return x + y


@app.task
def parent():
    """Sends another task."""
    return add.delay(20, 3).id


@app.task(bind=True, max_retries=1)
def fail(self, how):
    """Raises."""
    if how == "retry" and self.request.retries == 0:
        raise self.retry(countdown=0, exc=KeyError("again"))
    if how != "retry":
        raise ValueError(how)
    return "second try"
