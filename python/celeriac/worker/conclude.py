"""Ends requests that failed, and those that cannot run: time limit passed, process lost, revoked, unknown."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celeriac import signals, states
from celeriac.app.stores import uses_replies
from celeriac.exceptions import (
    InvalidTaskError,
    NotRegistered,
    Reject,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from celeriac.utils.einfo import ExceptionInfo, safe_repr
from celeriac.worker import callbacks
from celeriac.worker.chords import Joiner, make_part_writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celeriac._core import Execution, Publication, ResultRecord
    from celeriac.app.base import Celery
    from celeriac.app.context import Context
    from celeriac.app.task import Task
    from celeriac.worker.records import RecordWriter

logger = logging.getLogger("celery.app.trace")

#: Not even None.
_NOTHING: Any = object()

LOG_EXPECTED = "Task %(name)s[%(id)s] raised expected: %(exc)s"
LOG_UNEXPECTED = "Task %(name)s[%(id)s] raised unexpected: %(exc)s"

Conclusion = tuple[str, "Sequence[ResultRecord]", "Sequence[Publication]", str, float | None]
"""What `Child.respond` takes after the tag."""


class Concluder:
    """Knows what has to happen when a task does not succeed."""

    def __init__(self, app: Celery, records: RecordWriter) -> None:
        self._app = app
        self._records = records
        self._keeps: bool = app.results_enabled
        #: Makes the parts that requests are of chords.
        self.parts = make_part_writer(app)
        self._joiner = Joiner(app, records, self.parts)
        app._child_chord_error = self._joiner.give_up

    def stores_errors(self, task: Task[..., Any] | None, request: Context) -> bool:
        """Whether a failure of this request leaves a record."""
        ignores = request.ignore_result
        if ignores is None and task is not None:
            ignores = task.ignore_result
        return self._keeps and (not ignores or bool(task is not None and task.store_errors_even_if_ignored))

    def fail(
        self, task: Task[..., Any], request: Context, exc: BaseException, einfo: ExceptionInfo, *, hooks: bool = True
    ) -> list[ResultRecord]:
        """All that follows a failure but the answer: records, error callbacks, hooks, signal, log line.

        Args:
            hooks: False for a rejected message: it did not fail in the eyes of the task's own class.
        """
        traceback = einfo.traceback or None
        results: list[ResultRecord] = []
        if self.stores_errors(task, request):
            results.append(self._records.exception(states.FAILURE, request, exc, traceback))
        results += callbacks.fail_chain(self._records, request, exc, traceback)
        self._count(states.FAILURE, request, exc)
        if request.errbacks:
            # Links are told of the failure after it was recorded, so their children are not in the record.
            callbacks.send_after_failure(self._app, request, exc, einfo)
        args, kwargs = request.args, request.kwargs
        if hooks:
            _call_hook(task, "on_failure", exc, request.id, args, kwargs, einfo)
        if signals.task_failure.receivers:
            signals.task_failure.send(
                sender=task,
                task_id=request.id,
                exception=exc,
                args=args,
                kwargs=kwargs,
                traceback=einfo.tb,
                einfo=einfo,
            )
        if hooks:
            _log_failure(task, request, exc, einfo)
        return results

    def conclude(self, execution: Execution, request: Context) -> Conclusion:
        """Ends a request that will not run here (any more)."""
        name = request.task or ""
        task = self._app.tasks.get(name)
        match execution.mode:
            case "timed_out":
                # A whole number of seconds is written as one, as the caller gave it.
                limit = execution.limit or 0.0
                exc: BaseException = TimeLimitExceeded(int(limit) if limit == int(limit) else limit)
                return self.conclude_failure(task, request, exc)
            case "lost":
                if (value := self._stored(request)) is not _NOTHING:
                    # Its process died when it had ended: who waits for it has got it, a chord perhaps not.
                    if request.chord:
                        self.parts.add(request, states.SUCCESS, value)
                    return "success", (), (), safe_repr(value), None
                text = f"Worker exited prematurely: {execution.detail} Job: {execution.number}."
                return self.conclude_failure(task, request, WorkerLostError(text))
            case "revoked":
                return self._revoke(task, request, execution.detail)
            case "unknown":
                exc = NotRegistered(name)
                return "rejected", self.fail_alone(request, exc), request._follow_ups or (), repr(exc), None
            case "refused":
                return "failure", self.refuse(request, execution.detail), (), execution.detail, None
            case "join":
                return self._joiner.join(execution, request)
            case other:
                raise ValueError(f"the supervisor asked for an unknown mode: {other!r}")

    def _stored(self, request: Context) -> Any:
        """The result that is stored of it; `_NOTHING` unless it has succeeded."""
        if not self._keeps or uses_replies(self._app.conf.values_now()):
            return _NOTHING
        try:
            result = self._app.AsyncResult(request.id or "")
            return result.result if result.state == states.SUCCESS else _NOTHING
        except Exception as exc:
            logger.warning("cannot look whether task %s has ended: %r", request.id, exc)
            return _NOTHING

    def conclude_failure(self, task: Task[..., Any] | None, request: Context, exc: BaseException) -> Conclusion:
        """Ends a request that has failed outside of its task's code."""
        if task is None:
            return "failure", self.fail_alone(request, exc), request._follow_ups or (), repr(exc), None
        einfo = ExceptionInfo(exc, traceback="")
        task.request_stack.push(request)
        try:
            results = self.fail(task, request, exc, einfo)
            _call_hook(task, "after_return", states.FAILURE, exc, request.id, request.args, request.kwargs, einfo)
            self._tell_middleware(task, request, exc)
        finally:
            task.request_stack.pop()
        return "failure", results, request._follow_ups or (), repr(exc), None

    def _tell_middleware(self, task: Task[..., Any], request: Context, exc: BaseException) -> None:
        app = self._app
        if app._middleware or app.conf.task_middleware or task.middleware:
            from celeriac.worker.middleware import tell_failure

            tell_failure(app, task, request, exc)

    def _count(self, state: str, request: Context, exc: BaseException) -> None:
        """Chords of which it, or what was to follow it, is a part are told that it will not be."""
        if request.chord:
            self.parts.add(request, state, exc)
        if request.chain:
            self.parts.add_failed_steps(request, state, exc)

    def fail_alone(self, request: Context, exc: BaseException) -> list[ResultRecord]:
        """The same as `fail` where this worker does not have the task: without its hooks and signals."""
        results = []
        if self.stores_errors(None, request):
            results.append(self._records.exception(states.FAILURE, request, exc, None))
        results += callbacks.fail_chain(self._records, request, exc, None)
        self._count(states.FAILURE, request, exc)
        if request.errbacks:
            callbacks.send_after_failure(self._app, request, exc, ExceptionInfo(exc, traceback=""))
        return results

    def leave(self, request: Context, exc: BaseException) -> Sequence[ResultRecord]:
        """The task wants to be ignored, and leaves no record. What was to follow it must end all the same."""
        if not request.chain and not request.chord:
            return ()
        self._count(states.FAILURE, request, exc)
        return callbacks.fail_chain(self._records, request, exc, None)

    def refuse(self, request: Context, why: str, cause: BaseException | None = None) -> list[ResultRecord]:
        """The record of a message that nobody can read, or may: who waits for it is not left waiting."""
        exc = cause if isinstance(cause, InvalidTaskError) else InvalidTaskError(why)
        if request.group:
            # Whether that is a chord's is known to the store alone.
            self.parts.add(request, states.FAILURE, exc)
        if not self.stores_errors(self._app.tasks.get(request.task or ""), request):
            return []
        return [self._records.exception(states.FAILURE, request, exc, None)]

    def _revoke(self, task: Task[..., Any] | None, request: Context, why: str) -> Conclusion:
        exc = TaskRevokedError(why)
        results = []
        if self.stores_errors(task, request):
            results.append(self._records.exception(states.REVOKED, request, exc, None))
        self._count(states.REVOKED, request, exc)
        results += callbacks.fail_chain(self._records, request, exc, None, states.REVOKED)
        return "revoked", results, (), why, None


def _call_hook(task: Task[..., Any], name: str, *args: Any) -> None:
    try:
        getattr(task, name)(*args)
    except Exception as exc:
        logger.error("Hook %s of task %s raised: %r", name, task.name, exc, exc_info=True)


def _log_failure(task: Task[..., Any], request: Context, exc: BaseException, einfo: ExceptionInfo) -> None:
    expected = bool(task.throws) and isinstance(exc, task.throws)
    level = logging.INFO if expected else logging.ERROR
    if not logger.isEnabledFor(level) or isinstance(exc, Reject):
        return
    context = {
        "name": request.shadow or task.name,
        "id": request.id,
        "exc": safe_repr(exc),
        "traceback": einfo.traceback,
        "args": request.argsrepr,
        "kwargs": request.kwargsrepr,
    }
    if expected:
        logger.info(LOG_EXPECTED, context, extra={"data": context})
        return
    exc_info = (einfo.type, einfo.exception, einfo.tb) if einfo.tb is not None else None
    logger.error(LOG_UNEXPECTED, context, exc_info=exc_info, extra={"data": context})
