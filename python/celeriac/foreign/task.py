"""`ForeignTask`: stands for a task of Celery's in everything that the worker, beat and the canvas ask of a task."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from celeriac.app.context import Context, RequestStack
from celeriac.app.task import Task
from celeriac.exceptions import ImproperlyConfigured
from celeriac.foreign import tracing
from celeriac.foreign.mirror import as_celery, celery, context_of
from celeriac.worker import batches

if TYPE_CHECKING:
    from celeriac.worker.trace import Tracer

__all__ = ["ForeignTask"]

#: Options that are read where the task is sent, received or run.
_OPTIONS = (
    "acks_late", "acks_on_failure", "acks_on_failure_or_timeout", "acks_on_timeout", "compression",
    "default_retry_delay", "delivery_mode", "exchange", "exchange_type", "expires", "ignore_result", "max_retries",
    "priority", "queue", "rate_limit", "reject_on_worker_lost", "resultrepr_maxsize", "retry_on_worker_lost",
    "routing_key", "send_events", "serializer", "soft_time_limit", "store_eager_result",
    "store_errors_even_if_ignored", "throws", "time_limit", "track_started", "trail", "typing",
)  # fmt: skip
_STRATEGY = "celery.worker.strategy:default"


class _Stack(RequestStack):
    """Requests that were pushed by hand: where a task's hooks are called without running it."""

    __slots__ = ("_theirs",)

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self._theirs = theirs

    def push(self, request: Context) -> None:
        super().push(request)
        self._theirs.push(context_of(request))

    def pop(self) -> Context | None:
        self._theirs.pop()
        return super().pop()


def _sends_as_celery(real: Any) -> bool:
    """Whether nothing of the project's own has a part in sending the task."""
    base, app = celery("app.task").Task, celery("app.base").Celery
    return type(real).apply_async is base.apply_async and type(real.app).send_task is app.send_task


def _gatherer(tracer: Tracer, task: ForeignTask) -> batches.BatchTracer:
    """What runs a task that gets many calls at once."""
    return batches.BatchTracer(tracer, task.real)


class ForeignTask(Task[..., Any]):
    """The task of ours for one of Celery's, `real`."""

    tracer_class: Any = tracing.ForeignTracer

    def __init__(self, real: Any) -> None:
        super().__init__()
        self.real = real
        self.name = real.name
        self.abstract = False
        self.__doc__ = real.__doc__
        self.request_stack = _Stack(real.request_stack)
        for option in _OPTIONS:
            value = getattr(real, option, None)
            if value is not None:
                setattr(self, option, value)
        # None is a value there: no limit.
        self.max_retries = real.max_retries
        self.__header__ = getattr(real, "__header__", None)
        if real.Strategy != _STRATEGY:
            self._gather(real)
        # Guards the next; the children of a process with several slots share the task.
        self._lock = threading.Lock()
        self._trace: Callable[..., Any] | None = None

    def _gather(self, real: Any) -> None:
        """A task that gets many calls at once; no other strategy is known here."""
        try:
            batches.gathers(real)
        except ImproperlyConfigured as exc:
            raise ImproperlyConfigured(
                f"the task {real.name} takes its messages by a Strategy of its own, which is part of Celery's worker: "
                "run its queue with Celery's worker, or leave the task out"
            ) from exc
        # What the worker looks at when it starts.
        self.Strategy, self.flush = real.Strategy, real.flush
        self.flush_every, self.flush_interval = real.flush_every, real.flush_interval
        self.tracer_class = _gatherer

    # -- in a child

    def tracer(self, node: str) -> Callable[..., Any]:
        """Celery's tracer of the task: (id, args, kwargs, request) -> (value, info, seconds, text)."""
        with self._lock:
            if self._trace is None:
                real = self.real
                real.backend = tracing.ResultKeeper(self, real._backend)
                real.run = self._guarded(real.run)
                if _sends_as_celery(real):
                    real.signature_from_request = self._kept(real.signature_from_request)
                # By name, and now: libraries that watch tasks replace it.
                build = celery("app.trace").build_tracer
                self._trace = real.__trace__ = build(real.name, real, real.app.loader, node, app=real.app)
            return self._trace

    def _guarded(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """The task's code, with limits that hold while it runs, and follow-ups that are ours to send."""

        @wraps(run)
        def run_in_worker(*args: Any, **kwargs: Any) -> Any:
            call = tracing.running.get()
            if call is None or not call.begins(self):
                return run(*args, **kwargs)
            try:
                value = run(*args, **kwargs)
                if type(value) is CoroutineType:
                    value = call.run_coroutine(value)
            finally:
                call.ends()
            call.take_follow_ups(self.real.request_stack.top)
            return value

        return run_in_worker

    def _kept(self, signature_from_request: Callable[..., Any]) -> Callable[..., Any]:
        """What `retry` sends goes with the outcome: never before it, and never without it."""

        @wraps(signature_from_request)
        def kept(request: Any = None, *args: Any, **options: Any) -> Any:
            again = signature_from_request(request, *args, **options)
            call = tracing.running.get()
            if call is not None and call.is_tried_again(self, options):
                again.apply_async = lambda: call.send_again(again)
            return again

        return kept

    # -- what is called of a task that does not run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs it here, as Celery would: an error link that wants request, exception and traceback."""
        return self.real(*(as_celery(context_of(value)) for value in args), **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What the task does."""
        return self.real.run(*args, **kwargs)

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Its time limit has passed, or its process is gone."""
        exc = as_celery(exc)
        if not self.app.results_enabled:
            self.store_failure(self.request, exc)
            self.request._parts = None
        self.real.on_failure(exc, task_id, args, kwargs, einfo)

    def store_failure(self, request: Context, exc: BaseException) -> None:
        """Has a failure stored by Celery's backend, where the engine cannot; its error links are ours to call."""
        self.real.backend.mark_as_failure(
            request.id, exc, request=context_of(request), store_result=self.stores(request), call_errbacks=False
        )

    def stores(self, request: Context) -> bool:
        """Whether a failure of this request leaves a record."""
        ignores = self.ignore_result if request.ignore_result is None else request.ignore_result
        return not ignores or bool(self.store_errors_even_if_ignored)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Likewise."""
        self.real.after_return(status, as_celery(retval), task_id, args, kwargs, einfo)
