"""Runs one task by Celery's rules, and tells the supervisor what came out of it."""

from __future__ import annotations

import inspect
import logging
import os
import traceback as tracebacks
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from celeriac import _core, signals, states
from celeriac._state import current_tasks
from celeriac.app import trace as hooks
from celeriac.app.context import concluded
from celeriac.app.task import Task, entry_point
from celeriac.exceptions import Ignore, Reject, Retry, WorkerLostError
from celeriac.utils.einfo import ExceptionInfo, safe_repr
from celeriac.worker import callbacks
from celeriac.worker.batches import BatchTracer, gathers
from celeriac.worker.conclude import Concluder
from celeriac.worker.limits import Cancelled
from celeriac.worker.patched import PatchedTracer
from celeriac.worker.queue_retries import try_again
from celeriac.worker.records import make_writer
from celeriac.worker.request import Opener, Refused
from celeriac.worker.webhooks import ENDS, Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celeriac._core import Child, Execution, ResultRecord
    from celeriac.app.base import Celery
    from celeriac.app.context import Context
    from celeriac.worker.event_loop import LoopLimit
    from celeriac.worker.limits import Limit

logger = logging.getLogger("celery.app.trace")

LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
LOG_IGNORED = "Task %(name)s[%(id)s] ignored"
LOG_REJECTED = "Task %(name)s[%(id)s] %(exc)s"
LOG_RETRY = "Task %(name)s[%(id)s] retry: %(exc)s"
LOG_INTERNAL = "Task %(name)s[%(id)s] INTERNAL ERROR: %(exc)s"


class Tracer:
    """Traces the requests of one child. Used by one thread; each slot of another kind of loop has its own."""

    def __init__(self, app: Celery, node: str, channel: Child, limit: Limit) -> None:
        self.app = app
        self.node = node
        self.channel = channel
        self.limit = limit
        self.opener = Opener(app, node)
        self.records = make_writer(app, node)
        self.concluder = Concluder(app, self.records)
        self.webhooks = Webhooks(app)
        self._tasks: dict[str, TaskTracer] = {}
        # What of each batch is not answered, by the batch's tag.
        self._left: dict[int, dict[int, Execution]] = {}
        # Found out once: libraries patch when the app is imported, or when its process starts.
        self._trace_by: Any = PatchedTracer if hooks.is_patched() else plain_tracer
        app._child_update = channel.update

    def trace(self, execution: Execution) -> None:
        """Runs or concludes one request, and answers it. Only what ends the process comes out of here."""
        try:
            if execution.mode == "run":
                request = self.opener.open(execution)
                self.task(request.task or "").run(execution.tag, request)
            elif execution.mode == "batch":
                self._run_batch(execution)
            else:
                self._conclude(execution)
        except Refused as exc:
            self.refused(execution, exc)
        except Exception as exc:
            self.internal_error(execution, exc)

    def refused(self, execution: Execution, exc: Refused) -> None:
        """The message cannot be read, or may not be."""
        request = self.opener.unopened(execution)
        results = self.concluder.refuse(request, str(exc), exc.__cause__)
        self.channel.respond(execution.tag, exc.kind, results, (), str(exc), None, None, request._parts)

    def trace_one_of_many(self, execution: Execution) -> None:
        """The same in a child of several slots: what would end the process fails this request alone."""
        try:
            self.trace(execution)
        except Cancelled:
            self._left.pop(execution.tag, None)
            # Given up: the answer is nobody's, but it frees the slot.
            self.channel.respond(execution.tag, "ignored", (), (), "cancelled", None)
        except BaseException as exc:
            self.failed(execution, exc)

    def failed(self, execution: Execution, exc: BaseException) -> None:
        """A task raised what is no error of its own (`SystemExit`), or the tracer did."""
        if isinstance(exc, Exception):
            self.internal_error(execution, exc)
            return
        if execution.mode == "batch":
            self._end_batch(execution, lambda member: self.failed(member, exc))
            return
        try:
            request = self.opener.open(execution)
            task = self.app.tasks.get(request.task or "")
            outcome = self.concluder.conclude_failure(task, request, WorkerLostError(repr(exc)))
            self.channel.respond(execution.tag, *outcome, None, request._parts)
        except Exception as failed:
            self.internal_error(execution, failed)

    def run_coroutine(self, coroutine: CoroutineType[Any, Any, Any]) -> Any:
        """Runs what an `async def` task returned, on the loop of this child."""
        if self.limit.coroutines is None:
            # Imported on first use: most children never need it, and it is the largest import there is.
            from celeriac.worker.coroutines import CoroutineRunner

            self.limit.coroutines = CoroutineRunner()
        return self.limit.coroutines.run(coroutine)

    def task(self, name: str) -> TaskTracer:
        """What runs requests of this task."""
        tracer = self._tasks.get(name)
        if tracer is None:
            task = self.app.tasks[name]
            # A task of an app that Celery itself has made brings its own.
            make: Any = getattr(task, "tracer_class", None) or (BatchTracer if gathers(task) else self._trace_by)
            if getattr(task, "batch", None) is not None:
                # Imported on first use: few apps have such tasks.
                from celeriac.worker.gathered import gathered_tracer

                make = gathered_tracer
            tracer = self._tasks[name] = make(self, task)
        return tracer

    def _run_batch(self, execution: Execution) -> None:
        members = execution.members
        left = self._left[execution.tag] = {member.tag: member for member in members}
        tracer: Any = self.task(members[0].headers["task"])
        tracer.run_batch(execution, left)
        del self._left[execution.tag]

    def _end_batch(self, execution: Execution, end: Callable[[Execution], None]) -> None:
        """Ends what a batch has left when it could not run to its end."""
        for member in self._left.pop(execution.tag, {}).values():
            end(member)
        self.channel.respond(execution.tag, "ignored", (), (), "batch", None)

    def plain_task(self, task: Task[..., Any]) -> TaskTracer:
        """The same with nothing around it."""
        return plain_tracer(self, task)

    def _conclude(self, execution: Execution) -> None:
        request = self._readable(execution)
        token = concluded.set(request)
        try:
            outcome = self.webhooks.after(execution, request, self.concluder.conclude(execution, request))
        finally:
            concluded.reset(token)
        self.channel.respond(execution.tag, *outcome, None, request._parts)

    def _readable(self, execution: Execution) -> Context:
        """The request, as far as it can be read: it must end whatever its arguments are, and its id is in the headers."""
        if execution.mode == "refused":
            return self.opener.unopened(execution)
        try:
            return self.opener.open(execution)
        except Refused:
            return self.opener.unopened(execution)

    def internal_error(self, execution: Execution, exc: Exception) -> None:
        """The worker's own code failed: the request fails, the child goes on."""
        if execution.mode == "batch":
            self._end_batch(execution, lambda member: self.internal_error(member, exc))
            return
        headers = execution.headers
        task_id = headers.get("id")
        einfo = ExceptionInfo(exc)
        logger.critical(LOG_INTERNAL, {"name": headers.get("task"), "id": task_id, "exc": repr(exc)}, exc_info=exc)
        results: list[ResultRecord] = []
        try:
            request = self._readable(execution)
            results += callbacks.fail_chain(self.records, request, exc, einfo.traceback)
            results.append(self.records.exception(states.FAILURE, request, exc, einfo.traceback))
            signals.task_internal_error.send(
                sender=self.app.tasks.get(str(headers.get("task"))),
                task_id=task_id,
                args=request.args,
                kwargs=request.kwargs,
                request=request,
                exception=exc,
                traceback=exc.__traceback__,
                einfo=einfo,
            )
        except Exception:
            logger.critical("the internal error of task %s cannot be stored", task_id, exc_info=True)
        self.channel.respond(execution.tag, "failure", results, (), repr(exc), None)


class TaskTracer:
    """Runs requests of one task. What can be known before a request comes is found out here, once."""

    def __init__(self, tracer: Tracer, task: Task[..., Any]) -> None:
        self._tracer = tracer
        self._task = task
        self._records = tracer.records
        self._respond = tracer.channel.respond
        self._limit = tracer.limit
        self._concluder = tracer.concluder
        self._requests = task.request_stack.requests
        self._function = self._awaited = entry_point(task)
        self.is_async = inspect.iscoroutinefunction(self._function)
        self._before_start = _overridden(task, "before_start")
        self._on_success = _overridden(task, "on_success")
        self._after_return = _overridden(task, "after_return")
        self._ignores = bool(task.ignore_result)
        self._keeps = tracer.app.results_enabled
        self._tells_sent = bool(tracer.app.conf.task_send_sent_event)
        #: Frames of ours above the task's own, which tracebacks leave out.
        self._frames = 1
        self._repr_size = getattr(task, "resultrepr_maxsize", 1024)
        self._webhook = tracer.webhooks.of_task(task)

    def run(self, tag: int, request: Context) -> None:
        """Runs the task and answers."""
        tasks, requests = current_tasks.get(), self._requests.get()
        current_tasks.set((*tasks, self._task))
        self._requests.set((*requests, request))
        try:
            self._run(tag, request)
        finally:
            # As they were, even if the task has left something there.
            self._requests.set(requests)
            current_tasks.set(tasks)

    async def run_async(self, tag: int, request: Context, limit: LoopLimit, *, guarded: bool) -> None:
        """The same for an `async def` task, as a coroutine among others. Its context is its own.

        Args:
            guarded: A soft limit may have to be raised in it.

        Raises:
            asyncio.CancelledError: The request was given up, or has cancelled itself.
        """
        current_tasks.set((self._task,))
        self._requests.set((request,))
        stores = self._begin(tag, request)
        started = perf_counter()
        try:
            if self._before_start is not None:
                self._before_start(request.id, request.args, request.kwargs)
            coroutine = self._awaited(*request.args, **request.kwargs)
            retval = await (limit.guard(tag, coroutine) if guarded else coroutine)
            results = self._follow(request, retval, stores)
        except Exception as exc:
            self._end(tag, request, perf_counter() - started, exc, None)
        else:
            self._end(tag, request, perf_counter() - started, retval, results)

    def cancelled_from_within(self, tag: int, request: Context, exc: BaseException) -> None:
        """A coroutine has cancelled itself: a failure like others, and no reason to give the request up."""
        try:
            raise RuntimeError("the task was cancelled from within") from exc
        except RuntimeError as failure:
            self._end(tag, request, 0.0, failure, None)

    def _begin(self, tag: int, request: Context) -> bool:
        """What comes before the task; tells whether its result is stored."""
        task = self._task
        stores = self._stores(request)
        if signals.task_prerun.receivers:
            signals.task_prerun.send(
                sender=task, task_id=request.id, task=task, args=request.args, kwargs=request.kwargs
            )
        if task.track_started and stores:
            started_meta = {"pid": os.getpid(), "hostname": request.hostname}
            self._tracer.channel.update(tag, self._records.state(states.STARTED, request, started_meta))
        return stores

    def _follow(self, request: Context, retval: Any, stores: bool) -> Sequence[ResultRecord]:
        """What follows a return: messages of the next steps, and the record."""
        if request.callbacks or request.chain:
            callbacks.send_after_success(self._tracer.app, request, retval)
        results = (self._records.success(request, retval),) if stores else ()
        if request.chord:
            self._concluder.parts.add(request, states.SUCCESS, retval)
        return results

    def _run(self, tag: int, request: Context) -> None:
        limit = self._limit
        args, kwargs = request.args, request.kwargs
        stores = self._begin(tag, request)
        started = perf_counter()
        try:
            if self._before_start is not None:
                self._before_start(request.id, args, kwargs)
            limit.running = tag
            try:
                retval = self._function(*args, **kwargs)
                if type(retval) is CoroutineType:
                    retval = self._tracer.run_coroutine(retval)
            finally:
                limit.running = None
            results = self._follow(request, retval, stores)
        except Exception as exc:
            self._end(tag, request, perf_counter() - started, exc, None)
        else:
            self._end(tag, request, perf_counter() - started, retval, results)

    def _end(
        self, tag: int, request: Context, runtime: float, retval: Any, results: Sequence[ResultRecord] | None
    ) -> None:
        """What comes after the task, and the answer.

        Args:
            retval: What it returned, or raised.
            results: Its record, if it returned; None: it raised.
        """
        task, task_id = self._task, request.id
        args, kwargs = request.args, request.kwargs
        einfo: ExceptionInfo | None = None
        if request._meter is not None:
            request._meter.close()
        if results is None:
            kind, state, results, einfo = self._raised(retval, request)
            summary = _why(retval)
        else:
            kind, state = "success", states.SUCCESS
            summary = "None" if retval is None else _core.saferepr(retval, self._repr_size)
            self._succeeded(request, retval, runtime, summary)
        if self._after_return is not None and kind in ("success", "failure"):
            self._call_hook("after_return", self._after_return, state, retval, task_id, args, kwargs, einfo)
        if signals.task_postrun.receivers:
            signals.task_postrun.send(
                sender=task, task_id=task_id, task=task, args=args, kwargs=kwargs, retval=retval, state=state
            )
        if self._webhook is not None or "celeriac" in request.__dict__:
            self._call_webhook(request, kind, retval)
        if self._tells_sent and request._follow_ups:
            self._tracer.app.events.tasks_sent(request._follow_ups)
        checkpoints = request._checkpoints
        if checkpoints is not None:
            checkpoints.ends(kind)
        elif einfo is None and request._parts is None:
            self._respond(tag, kind, results, request._follow_ups or (), summary, runtime)
            return
        traceback = None if einfo is None else einfo.traceback
        self._respond(tag, kind, results, request._follow_ups or (), summary, runtime, traceback, request._parts)
        if checkpoints is not None:
            checkpoints.ended(kind)
        if einfo is not None:
            _release(einfo)

    def _call_webhook(self, request: Context, kind: str, retval: Any) -> None:
        if kind in ENDS and (message := self._tracer.webhooks.follow(request, self._webhook, kind, retval)):
            request._follow_ups = [*(request._follow_ups or ()), message]

    def _stores(self, request: Context) -> bool:
        ignores = request.ignore_result
        return self._keeps and not (self._ignores if ignores is None else ignores)

    def _succeeded(self, request: Context, retval: Any, runtime: float, summary: str) -> None:
        if self._on_success is not None:
            self._call_hook("on_success", self._on_success, retval, request.id, request.args, request.kwargs)
        if signals.task_success.receivers:
            signals.task_success.send(sender=self._task, result=retval, runtime=runtime)
        if logger.isEnabledFor(logging.INFO):
            context = {
                "id": request.id,
                "name": request.shadow or self._task.name,
                "return_value": summary,
                "runtime": runtime,
                "args": request.argsrepr,
                "kwargs": request.kwargsrepr,
            }
            logger.info(LOG_SUCCESS, context, extra={"data": context})

    def _raised(self, exc: Exception, request: Context) -> tuple[str, str, Any, ExceptionInfo]:
        """What an exception means: (outcome, state, records, what hooks are told)."""
        if request._queue is not None:
            exc = try_again(self._tracer.app, self._task, request, exc)
        name = request.shadow or self._task.name
        context = {"name": name, "id": request.id, "exc": safe_repr(exc)}
        if isinstance(exc, Retry):
            return self._retried(exc, request, context)
        einfo = ExceptionInfo(exc, skip=self._frames)
        if isinstance(exc, Ignore):
            logger.info(LOG_IGNORED, context, extra={"data": context})
            left = () if request._replaced else self._concluder.leave(request, exc)
            return "ignored", states.IGNORED, left, einfo
        if isinstance(exc, Reject):
            logger.warning(LOG_REJECTED, context, exc_info=_exc_info(einfo), extra={"data": context})
            if exc.requeue and (self._task.acks_late or not _is_awaited(request)):
                return "requeued", states.REJECTED, (), einfo
            failed = self._concluder.fail(self._task, request, exc, ExceptionInfo(exc, traceback=""), hooks=False)
            return "rejected", states.REJECTED, failed, einfo
        if request._follow_ups:
            # What was to follow a success does not follow a failure (of encoding its result, then).
            request._follow_ups.clear()
        results = self._concluder.fail(self._task, request, exc, einfo)
        return "failure", states.FAILURE, results, einfo

    def _retried(self, exc: Retry, request: Context, context: dict[str, Any]) -> tuple[str, str, Any, ExceptionInfo]:
        task = self._task
        reason: BaseException = exc.exc if exc.exc is not None else exc
        einfo = ExceptionInfo(exc, skip=self._frames)
        if task.trail and request._follow_ups:
            # The message of the next try counts as a child, as with Celery.
            request.children.append(task.AsyncResult(request.id or ""))
        results = []
        if self._concluder.stores_errors(task, request):
            results.append(self._records.exception(states.RETRY, request, reason, einfo.traceback))
        self._call_hook("on_retry", task.on_retry, reason, request.id, request.args, request.kwargs, einfo)
        signals.task_retry.send(sender=task, request=request, reason=exc, einfo=einfo)
        if logger.isEnabledFor(logging.INFO):
            context["exc"] = str(exc)
            logger.info(LOG_RETRY, context, extra={"data": context})
        return "retry", states.RETRY, results, einfo

    def _call_hook(self, name: str, hook: Any, *args: Any) -> None:
        """A hook that raises does not change how the task ended."""
        try:
            hook(*args)
        except Exception as exc:
            logger.error("Hook %s of task %s raised: %r", name, self._task.name, exc, exc_info=True)


def plain_tracer(tracer: Tracer, task: Task[..., Any]) -> TaskTracer:
    """What runs requests of a task of our own: with its middleware, if it has any."""
    app = tracer.app
    if app._middleware or app.conf.task_middleware or getattr(task, "middleware", ()):
        from celeriac.worker.middleware import HookedTracer, hooks_of

        around = hooks_of(app, task)
        if around is not None:
            return HookedTracer(tracer, task, around)
    return TaskTracer(tracer, task)


def _why(exc: Exception) -> str:
    """What monitors are told: of a retry, its reason."""
    if not isinstance(exc, Retry):
        return safe_repr(exc)
    return "None" if exc.exc is None else safe_repr(exc.exc)


def _is_awaited(request: Context) -> bool:
    """Whether others wait for the end of this one: acknowledged early and given back, it would never come."""
    return bool(request.chain or request.callbacks or request.errbacks or request.chord or request.group)


def _overridden(task: Task[..., Any], name: str) -> Any:
    """The task's own hook; None when it is the one that does nothing."""
    hook = getattr(task, name)
    return None if getattr(hook, "__func__", None) is getattr(Task, name) else hook


def _exc_info(einfo: ExceptionInfo) -> Any:
    return (einfo.type, einfo.exception, einfo.tb)


def _release(einfo: ExceptionInfo) -> None:
    """Breaks the cycle of exception, frames and locals: what the task held is freed now, not by the collector."""
    if einfo.tb is not None:
        tracebacks.clear_frames(einfo.tb)
    einfo.tb = None
    einfo.exception.__traceback__ = None
