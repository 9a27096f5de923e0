"""Runs a request with Celery's own tracer, and makes the outcome of what that would store and send.

Celery's tracer does all that concerns the task: its stacks, hooks, signals and log lines. It tells the task's result
backend how a request ended; `ResultKeeper` stands there. Follow-ups are taken out of the request between the task's return
and the moment when the tracer would send them, and become the outcome's, as with every task of ours.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.app import send
from celeriac.canvas.rebuild import maybe_signature
from celeriac.exceptions import EncodeError
from celeriac.foreign.mirror import celery, fields_of
from celeriac.result.record import build_record
from celeriac.utils.einfo import ExceptionInfo, safe_repr
from celeriac.worker.trace import TaskTracer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from celeriac._core import ResultRecord
    from celeriac.app.context import Context
    from celeriac.foreign.task import ForeignTask
    from celeriac.worker.trace import Tracer

__all__ = ["Call", "ForeignTracer", "ResultKeeper", "running"]

#: The request that Celery's tracer runs here.
running: ContextVar[Call | None] = ContextVar("celeriac_foreign_call", default=None)

#: Celery's retry repeats them; they tell of one delivery.
_OF_THE_DELIVERY = frozenset({"redelivered", "is_eager"})
_KINDS = {states.FAILURE: "failure", states.RETRY: "retry", states.IGNORED: "ignored"}


class Call:
    """One request, while Celery's tracer runs it. Belongs to the thread (or greenlet) that runs it."""

    __slots__ = ("_begun", "_chain", "_links", "_takes", "request", "results", "tag", "tracer")

    def __init__(self, tracer: ForeignTracer, tag: int, request: Context) -> None:
        self.tracer = tracer
        self.tag = tag
        self.request = request
        #: Records of how it ended; None: it has not said so.
        self.results: Sequence[ResultRecord] | None = None
        self._begun = False
        # Links and rest of the chain, when they were taken out of Celery's request.
        self._takes = False
        self._links: Any = None
        self._chain: Any = None

    # -- around the task's code

    def begins(self, task: ForeignTask) -> bool:
        """Whether this is the run that the request asks for, and not a call of a task by a task."""
        if self._begun or task is not self.tracer.task:
            return False
        self._begun = True
        self.tracer.limit.running = self.tag
        return True

    def ends(self) -> None:
        """The task's code is over."""
        self.tracer.limit.running = None

    def run_coroutine(self, coroutine: CoroutineType[Any, Any, Any]) -> Any:
        """What an `async def` returned."""
        return self.tracer.run_coroutine(coroutine)

    def take_follow_ups(self, context: Any) -> None:
        """Leaves nothing for Celery's tracer to send. What the task has changed of it counts."""
        if not self.tracer.keeps:
            # Chords among them are counted where only Celery's backend can.
            return
        self._takes = True
        self._links, self._chain = context.callbacks, context.chain
        context.callbacks = context.chain = None

    # -- trying again

    def is_tried_again(self, task: ForeignTask, options: Mapping[str, Any]) -> bool:
        """Whether a signature that was made of the running request is for its next try."""
        return task is self.tracer.task and options.get("retries") == (self.request.retries or 0) + 1

    def send_again(self, again: Any) -> Any:
        """Adds the message of Celery's signature to the outcome."""
        request, real = self.request, self.tracer.task.real
        options = {name: value for name, value in again.options.items() if name not in _OF_THE_DELIVERY}
        message = maybe_signature({**again, "options": options}, app=self.tracer.app).compose()
        if request._follow_ups is None:
            request._follow_ups = []
        request._follow_ups.append(message.publication)
        send._published(message)
        result = real.AsyncResult(request.id)
        real.add_trail(result)
        return result

    # -- what the tracer tells

    def succeeded(self, value: Any, context: Any, stores: bool) -> None:
        """The task returned.

        Raises:
            EncodeError: kombu's: the value, or a message, cannot be encoded.
        """
        request = self.request
        self._learn(context)
        if not self._takes:
            # Sent by Celery: the task's class calls other code than `run`.
            request.callbacks = request.chain = None
        with _kombu_errors():
            self.results = self.tracer.follow(request, value, stores)

    def failed(self, exc: BaseException, traceback: str | None, context: Any) -> None:
        """It raised."""
        request = self.request
        if request._follow_ups:
            request._follow_ups.clear()
        self._learn(context)
        self.results = self.tracer.fail(request, exc, ExceptionInfo(exc, traceback=traceback or ""))

    def retried(self, exc: BaseException | None, traceback: str | None, context: Any) -> None:
        """It was sent again."""
        self._learn(context)
        self.results = [self._record(exc, states.RETRY, traceback)]

    def reached(self, state: str, meta: Any, traceback: str | None, context: Any) -> None:
        """A state on the way."""
        self._learn(context)
        with _kombu_errors():
            self.tracer.update(self.tag, self._record(meta, state, traceback))

    def _record(self, value: Any, state: str, traceback: str | None) -> ResultRecord:
        request = self.request
        return build_record(self.tracer.app, request.id or "", state, value, traceback=traceback, request=request)

    def _learn(self, context: Any) -> None:
        """Takes over what a task may have changed of its request."""
        if context is None:
            return
        if self._takes:
            # Back for hooks; and the class's `__call__` may have failed after `run` returned.
            context.callbacks, context.chain = self._links, self._chain
        request = self.request
        request.callbacks, request.errbacks = context.callbacks, context.errbacks
        request.chain, request.chord = context.chain, context.chord
        request._children = list(context.children) or None


class ForeignTracer(TaskTracer):
    """Runs requests of one of Celery's tasks."""

    def __init__(self, tracer: Tracer, task: ForeignTask) -> None:
        super().__init__(tracer, task)
        # Celery's tracer is no coroutine: what an `async def` returns is run when it is there.
        self.is_async = False
        self.task = task
        self.limit = tracer.limit
        self.app = tracer.app
        self.run_coroutine = tracer.run_coroutine
        self.update = tracer.channel.update
        self.follow = self._follow
        self._trace = task.tracer(tracer.node)
        self._rejections = celery("exceptions").Reject

    def fail(self, request: Context, exc: BaseException, einfo: ExceptionInfo) -> list[ResultRecord]:
        """All that follows a failure but hooks, signal and log, which are Celery's."""
        found = self._concluder.fail(self.task, request, exc, einfo, hooks=False)
        if not self._keeps:
            # Celery's backend counts it where it stores it.
            request._parts = None
        return found

    @property
    def keeps(self) -> bool:
        """Whether the engine stores results; otherwise Celery's backend does."""
        return self._keeps

    def _run(self, tag: int, request: Context) -> None:
        call = Call(self, tag, request)
        started = perf_counter()
        token = running.set(call)
        try:
            value, info, seconds, text = self._trace(request.id, request.args, request.kwargs, fields_of(request))
        except self._rejections as exc:
            # Raised by a hook.
            self._rejected(call, exc, None, perf_counter() - started)
            return
        finally:
            self.limit.running = None
            running.reset(token)
        runtime = perf_counter() - started if seconds is None else seconds
        if info is None:
            self._answer(call, "success", text or "None", runtime, None)
        elif info.state == states.REJECTED:
            self._rejected(call, info.retval, value, runtime)
        else:
            self._ended(call, info, value, runtime)

    def _ended(self, call: Call, info: Any, einfo: Any, runtime: float) -> None:
        exc = info.retval
        traceback = str(getattr(einfo, "traceback", "") or "")
        kind = _KINDS.get(info.state, "failure")
        if call.results is None and kind == "failure" and self._keeps:
            # The tracer itself failed.
            call.failed(exc, traceback, None)
        if kind == "retry":
            reason = getattr(exc, "exc", None)
            summary = "None" if reason is None else safe_repr(reason)
        else:
            summary = safe_repr(exc)
        self._answer(call, kind, summary, runtime, traceback)

    def _rejected(self, call: Call, exc: Any, einfo: Any, runtime: float) -> None:
        kind = "requeued" if exc.requeue else "rejected"
        if not exc.requeue:
            if not self._keeps:
                self.task.store_failure(call.request, exc)
            call.results = self.fail(call.request, exc, ExceptionInfo(exc, traceback=""))
        self._answer(call, kind, safe_repr(exc), runtime, str(getattr(einfo, "traceback", "") or ""))

    def _answer(self, call: Call, kind: str, summary: str, runtime: float, traceback: str | None) -> None:
        follow_ups = call.request._follow_ups or ()
        if self._tells_sent and follow_ups:
            self.app.events.tasks_sent(follow_ups)
        traceback = None if traceback is None else _encodable(traceback)
        parts, summary = call.request._parts, _encodable(summary)
        self._respond(call.tag, kind, call.results or (), follow_ups, summary, runtime, traceback, parts)


def _encodable(text: str) -> str:
    """Text for logs and events: Celery leaves half of a pair of UTF-16 in it as it was."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class ResultKeeper:
    """Is the result backend of one of Celery's tasks, in a child.

    What concerns the running request becomes part of its outcome; everything else is the real backend's. So is all of it
    where the engine does not know the backend: a database, Django's tables, a class of the project's own.
    """

    def __init__(self, task: ForeignTask, backend: Any) -> None:
        self._task = task
        # The task's own; None: its app's, of which each thread has one.
        self._own = backend

    def _real(self) -> Any:
        return self._task.real.app.backend if self._own is None else self._own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Results hold their backend.
        return self._real().__reduce_ex__(protocol)

    def _call(self, task_id: str) -> Call | None:
        call = running.get()
        if call is None or call.request.id != task_id or call.tracer.task is not self._task:
            return None
        return call if call.tracer.keeps else None

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> None:
        """The task returned."""
        call = self._call(task_id)
        if call is None:
            self._real().mark_as_done(task_id, result, request, store_result, state)
        else:
            call.succeeded(result, request, store_result)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """It raised."""
        call = self._call(task_id)
        if call is not None:
            call.failed(exc, traceback, request)
            return
        self._real().mark_as_failure(
            task_id, exc, traceback=traceback, request=request, store_result=store_result,
            call_errbacks=call_errbacks, state=state,
        )  # fmt: skip

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException | None,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> None:
        """It was sent again."""
        call = self._call(task_id)
        if call is not None:
            if store_result:
                call.retried(exc, traceback, request)
            return
        self._real().mark_as_retry(
            task_id, exc, traceback=traceback, request=request, store_result=store_result, state=state
        )

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """A state of the task's own, or STARTED."""
        call = self._call(task_id)
        if call is None:
            return self._real().store_result(task_id, result, state, traceback=traceback, request=request, **kwargs)
        call.reached(state, result, traceback, request)
        return result

    def process_cleanup(self) -> None:
        """After each task. Where nothing was stored, there is nothing to put in order."""
        if not self._task.app.results_enabled:
            self._real().process_cleanup()


@contextmanager
def _kombu_errors() -> Iterator[None]:
    """What cannot be encoded is known to Celery's tracer by kombu's exception."""
    try:
        yield
    except EncodeError as exc:
        from importlib import import_module

        # Its argument is what the serializer has raised.
        raise import_module("kombu.exceptions").EncodeError(TypeError(str(exc))) from exc
