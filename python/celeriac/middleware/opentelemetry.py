"""OpenTelemetry: a span for each message that is sent, and one for each run of a task, in one trace.

    app.add_middleware(OpenTelemetry())

Spans are made with the Python API, in the process where the call or the task is: what other instrumentation does there
nests in them. The context travels in the message's headers as W3C trace context (or as the propagator says).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.app import own
from celeriac.exceptions import DuplicateTask
from celeriac.middleware import Call, Middleware, Run

try:
    from opentelemetry import context as contexts
    from opentelemetry import propagate, trace
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode
except ImportError as exc:
    raise ImportError(
        "celeriac.middleware.opentelemetry needs OpenTelemetry: pip install opentelemetry-api opentelemetry-sdk"
    ) from exc

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["OpenTelemetry"]

#: The member of celeriac's own header: where the try before this one was.
MEMBER = "trace"
#: How long spans that are not exported yet may take, when a process of a worker ends.
FLUSH_MILLISECONDS = 5_000


class OpenTelemetry(Middleware):
    """Traces calls and runs.

    A retry is a run like others below the span of the first message, with a link to the try before it.

    Args:
        tracer_provider: Instead of the global one, which is looked up at each call: it may be set later.
        names: `messaging`: names and attributes of the semantic conventions for messaging; `celery`: those of
            OpenTelemetry's instrumentation of Celery, for dashboards that know these.
        propagator: Instead of the global one.
    """

    def __init__(
        self,
        *,
        tracer_provider: Any = None,
        names: str = "messaging",
        propagator: Any = None,
    ) -> None:
        if names not in {"messaging", "celery"}:
            raise ValueError(f"names is 'messaging' or 'celery', not {names!r}")
        self._provider = tracer_provider
        self._names: Any = _CeleryNames() if names == "celery" else _MessagingNames()
        self._propagator: Any = propagator or propagate
        signals.worker_process_shutdown.connect(self._flush, weak=False)

    def _tracer(self) -> Any:
        return trace.get_tracer("celeriac", tracer_provider=self._provider)

    def before_publish(self, call: Call) -> None:
        """Begins the span of the message, and puts it into the headers."""
        again = bool(call.options.get("retries"))
        parent = None
        if call.cause is not None and not trace.get_current_span().get_span_context().is_valid:
            # Nothing of the task's own runs here: the body of a chord, the link of a task that was killed.
            parent = self._propagator.extract(_texts(vars(call.cause)))
        span = self._tracer().start_span(
            self._names.publish_name(call), context=parent, kind=SpanKind.PRODUCER, attributes=self._names.of_call(call)
        )
        call.data[self] = span
        if again:
            # Below the first message, not below the try that has failed: a long row of retries is no deep tree.
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            if carrier:
                call.members[MEMBER] = carrier
            return
        self._propagator.inject(call.headers, context=trace.set_span_in_context(span))

    def after_publish(self, call: Call, exception: BaseException | None) -> None:
        """Ends it."""
        span = call.data.pop(self)
        if span.is_recording():
            if call.message is not None:
                name = self._names.published_name(call)
                if name is not None:
                    span.update_name(name)
                span.set_attributes(self._names.of_message(call))
            if isinstance(exception, DuplicateTask):
                span.set_attribute("celeriac.duplicate_of", exception.task_id or "")
            elif exception is not None:
                _failed(span, exception)
        span.end()

    def before_task(self, run: Run) -> None:
        """Begins the span of the run, and makes it the current one."""
        headers = _texts(vars(run.request))
        parent = self._propagator.extract(headers)
        links = []
        before = (run.request.get(own.HEADER) or {}).get(MEMBER)
        if isinstance(before, dict):
            linked = trace.get_current_span(self._propagator.extract(_texts(before))).get_span_context()
            if linked.is_valid:
                links.append(Link(linked, {"celeriac.link": "previous try"}))
        span = self._tracer().start_span(
            self._names.run_name(run),
            context=parent,
            kind=SpanKind.CONSUMER,
            links=links,
            attributes=self._names.of_run(run),
        )
        run.data[self] = span, contexts.attach(trace.set_span_in_context(span, parent))

    def on_retry(self, run: Run, exception: BaseException) -> None:
        """The reason is an event of the span, and no error."""
        span = run.data[self][0]
        if span.is_recording():
            span.record_exception(exception)
            span.set_attributes(self._names.of_retry(run, exception))

    def on_failure(self, run: Run, exception: BaseException) -> None:
        """The error. Of a run whose process was killed there is a span of its own: the first one was lost with it."""
        if self in run.data:
            span = run.data[self][0]
            if span.is_recording() and not isinstance(exception, tuple(run.task.throws or ())):
                _failed(span, exception)
            elif span.is_recording():
                span.record_exception(exception)
            return
        self.before_task(run)
        _failed(run.data[self][0], exception)
        self.after_task(run)

    def after_task(self, run: Run) -> None:
        """Ends it."""
        span, token = run.data.pop(self)
        if span.is_recording():
            span.set_attributes(self._names.of_end(run))
        contexts.detach(token)
        span.end()

    def _flush(self, **_: Any) -> None:
        flush = getattr(self._provider or trace.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            flush(FLUSH_MILLISECONDS)


class _MessagingNames:
    """The semantic conventions for messaging."""

    def publish_name(self, call: Call) -> str:
        return f"send {call.name}"

    def published_name(self, call: Call) -> str | None:
        return f"send {_destination(call.exchange, call.routing_key)}"

    def of_call(self, call: Call) -> dict[str, Any]:
        return {
            "messaging.system": _system(call.app),
            "messaging.operation.type": "send",
            "messaging.operation.name": "send",
            "messaging.message.id": call.id,
            "celeriac.task.name": call.name,
        }

    def of_message(self, call: Call) -> dict[str, Any]:
        assert call.message is not None
        headers, publication = call.message.headers, call.message.publication
        return {
            "messaging.destination.name": _destination(call.exchange, call.routing_key),
            "messaging.message.conversation_id": str(headers.get("root_id") or call.id),
            "messaging.message.body.size": len(publication.body),
            **_rabbitmq(call.app, call.routing_key),
        }

    def run_name(self, run: Run) -> str:
        return f"process {_destination_of(run)}"

    def of_run(self, run: Run) -> dict[str, Any]:
        return {
            "messaging.system": _system(run.app),
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": _destination_of(run),
            "messaging.message.id": run.id,
            "messaging.message.conversation_id": str(run.request.root_id or run.id),
            "messaging.client.id": str(run.request.hostname),
            "celeriac.task.name": run.task.name,
            "celeriac.task.retries": int(run.request.retries or 0),
            **_rabbitmq(run.app, (run.request.delivery_info or {}).get("routing_key")),
        }

    def of_retry(self, run: Run, exception: BaseException) -> dict[str, Any]:
        return {"celeriac.task.retry.reason": repr(exception)}

    def of_end(self, run: Run) -> dict[str, Any]:
        return {"celeriac.task.state": run.state}


class _CeleryNames:
    """What OpenTelemetry's instrumentation of Celery writes."""

    def publish_name(self, call: Call) -> str:
        return f"apply_async/{call.name}"

    def published_name(self, call: Call) -> str | None:
        return None

    def of_call(self, call: Call) -> dict[str, Any]:
        return {"celery.action": "apply_async", "celery.task_name": call.name, "messaging.message.id": call.id}

    def of_message(self, call: Call) -> dict[str, Any]:
        return {"messaging.destination": str(call.routing_key)}

    def run_name(self, run: Run) -> str:
        return f"run/{run.task.name}"

    def of_run(self, run: Run) -> dict[str, Any]:
        request = run.request
        delivery = request.delivery_info or {}
        found = {
            "celery.action": "run",
            "celery.task_name": run.task.name,
            "celery.hostname": request.hostname,
            "celery.delivery_info": str(delivery),
            "celery.reply_to": request.reply_to,
            "celery.retries": request.retries or None,
            "celery.eta": request.eta,
            "celery.expires": request.expires,
            "messaging.message.id": run.id,
            "messaging.conversation_id": request.correlation_id,
            "messaging.destination": delivery.get("routing_key"),
        }
        return {name: value for name, value in found.items() if value is not None}

    def of_retry(self, run: Run, exception: BaseException) -> dict[str, Any]:
        return {"celery.retry.reason": str(run.exception)}

    def of_end(self, run: Run) -> dict[str, Any]:
        return {"celery.state": run.state}


def _failed(span: Any, exception: BaseException) -> None:
    span.record_exception(exception)
    span.set_status(Status(StatusCode.ERROR, str(exception)))
    span.set_attribute("error.type", type(exception).__qualname__)


def _texts(headers: dict[str, Any]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if isinstance(value, str)}


def _system(app: Celery) -> str:
    scheme = app.broker_url_effective.partition(":")[0].split("+")[0]
    if scheme in {"amqp", "amqps", "pyamqp"}:
        return "rabbitmq"
    return "redis" if scheme in {"redis", "rediss", "sentinel", "redis-cluster"} else "celeriac"


def _rabbitmq(app: Celery, routing_key: Any) -> dict[str, Any]:
    if _system(app) != "rabbitmq" or not routing_key:
        return {}
    return {"messaging.rabbitmq.destination.routing_key": str(routing_key)}


def _destination(exchange: str | None, routing_key: str | None) -> str:
    """The queue's name where the exchange is the default one, or is called as the queue."""
    return f"{exchange}:{routing_key}" if exchange and exchange != routing_key else str(routing_key)


def _destination_of(run: Run) -> str:
    delivery = run.request.delivery_info or {}
    return _destination(delivery.get("exchange"), delivery.get("routing_key"))
