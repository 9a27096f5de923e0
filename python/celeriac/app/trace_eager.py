"""Runs a task in the calling process as a worker would: `apply`, and `task_always_eager`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from celeriac import signals, states
from celeriac._state import pop_current_task, push_current_task
from celeriac.app.context import Context
from celeriac.app.task import entry_point
from celeriac.exceptions import Ignore, Reject, Retry
from celeriac.result.eager import EagerResult
from celeriac.serialization import registry
from celeriac.utils import uuid
from celeriac.utils.einfo import ExceptionInfo
from celeriac.utils.nodenames import gethostname

if TYPE_CHECKING:
    from celeriac._dispatch import Signal
    from celeriac.app.middleware import Hooks, Run
    from celeriac.app.task import Task

__all__ = ["apply_always_eager", "run_eagerly"]

logger = logging.getLogger("celery.app.trace")


def apply_always_eager(task: Task[..., Any], args: Any, kwargs: Any, options: dict[str, Any]) -> EagerResult[Any]:
    """A call under `task_always_eager`: run here, with arguments as they would arrive."""
    options.pop("shadow", None)
    args, kwargs = through_the_wire(task, args, kwargs, options.get("serializer"))
    return task.apply(args, kwargs, **options)


def through_the_wire(task: Task[..., Any], args: Any, kwargs: Any, serializer: str | None) -> tuple[Any, Any]:
    """Arguments as the task would get them from a message: encoded and decoded.

    Raises:
        EncodeError: They could not be sent.
    """
    content_type, encoding, data = registry.dumps((tuple(args), dict(kwargs)), serializer or task.serializer)
    sent_args, sent_kwargs = registry.loads(data, content_type, encoding)
    return tuple(sent_args), sent_kwargs


def run_eagerly(
    task: Task[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    task_id: str | None,
    retries: int,
    throw: bool | None,
    options: dict[str, Any],
) -> EagerResult[Any]:
    """Runs a task and gives its result; retries run at once."""
    app = task.app
    task_id = task_id or uuid()
    if throw is None:
        throw = app.conf.task_eager_propagates
    link, link_error = _listed(options.get("link")), _listed(options.get("link_error"))
    request = Context(
        id=task_id,
        task=task.name,
        args=args,
        kwargs=kwargs,
        retries=retries,
        is_eager=True,
        called_directly=False,
        hostname=gethostname(),
        logfile=options.get("logfile"),
        loglevel=options.get("loglevel", 0),
        callbacks=link,
        errbacks=link_error,
        ignore_result=bool(task.ignore_result if options.get("ignore_result") is None else options["ignore_result"]),
        root_id=options.get("root_id") or task_id,
        parent_id=options.get("parent_id"),
        group=options.get("group_id"),
        group_index=options.get("group_index"),
        chord=options.get("chord"),
        chain=options.get("chain"),
        stamped_headers=options.get("stamped_headers"),
        stamps={name: options[name] for name in options.get("stamped_headers") or () if name in options},
        replaced_task_nesting=options.get("replaced_task_nesting") or 0,
        delivery_info={
            "is_eager": True,
            "exchange": options.get("exchange"),
            "routing_key": options.get("routing_key"),
            "priority": options.get("priority"),
        },
        **(options.get("headers") or {}),
    )
    call = _EagerCall(task, request, throw)
    from celeriac.app import trace

    if trace.is_patched():
        traced = trace.TracedRequest(request, call.run)
        around = trace.build_tracer(task.name, task, eager=True, propagate=throw, app=app)
        found: EagerResult[Any] = around(task_id, args, kwargs, traced).retval
        return found
    return call.run()


class _EagerCall:
    """One call: runs the task, its hooks and what is linked to it."""

    def __init__(self, task: Task[..., Any], request: Context, throw: bool) -> None:
        self.task = task
        self.request = request
        self.throw = throw
        self.hooks = _hooks_of(task)
        self.around = None if self.hooks is None else _run_of(task, request)

    def run(self) -> EagerResult[Any]:
        task, request = self.task, self.request
        push_current_task(task)
        task.request_stack.push(request)
        try:
            state, value, einfo = self._attempt()
            self._finish(state, value, einfo)
            self._tell_middleware(state, value)
        finally:
            task.request_stack.pop()
            pop_current_task()
        if isinstance(value, Retry) and state == states.RETRY and value.sig is not None:
            if self.throw:
                # Celery's rule: who wants exceptions at the call gets the first one.
                raise value
            return self._again(value)
        if self.throw and state in states.PROPAGATE_STATES:
            raise value
        text = einfo.traceback if einfo is not None else None
        result: EagerResult[Any] = EagerResult(request.id or "", value, state, text, task.name)
        result._app = task.app
        self._store(state, value, text)
        return result

    def _attempt(self) -> tuple[str, Any, ExceptionInfo | None]:
        """State, value or exception, and what hooks are told of the exception."""
        task, request = self.task, self.request
        self._signal(signals.task_prerun, task=task)
        try:
            if self.hooks is not None:
                assert self.around is not None
                self.hooks.begin(self.around, _finished)
            task.before_start(request.id or "", request.args, request.kwargs)
            value = self._called()
        except Retry as exc:
            return states.RETRY, exc, ExceptionInfo(exc)
        except Ignore as exc:
            return states.IGNORED, exc, ExceptionInfo(exc)
        except Reject as exc:
            return states.REJECTED, exc, ExceptionInfo(exc)
        except Exception as exc:
            return states.FAILURE, exc, ExceptionInfo(exc)
        return states.SUCCESS, value, None

    def _called(self) -> Any:
        task, request = self.task, self.request
        call = entry_point(task)
        if task.batch is None:
            return _finished(call(*request.args, **request.kwargs))
        from celeriac.app.batches import run_alone

        return run_alone(task, request, lambda requests: _finished(call(requests)))

    def _finish(self, state: str, value: Any, einfo: ExceptionInfo | None) -> None:
        task, request = self.task, self.request
        task_id, args, kwargs = request.id or "", request.args, request.kwargs
        if state == states.SUCCESS:
            for callback in request.callbacks:
                self._linked(callback).apply((value,), throw=self.throw)
            self._hook(task.on_success, value, task_id, args, kwargs)
            signals.task_success.send(task, result=value, runtime=None)
        elif state == states.RETRY:
            reason = value.exc or value
            self._hook(task.on_retry, reason, task_id, args, kwargs, einfo)
            signals.task_retry.send(task, request=request, reason=value, einfo=einfo)
        elif state == states.FAILURE:
            self._hook(task.on_failure, value, task_id, args, kwargs, einfo)
            self._signal(signals.task_failure, exception=value, traceback=value.__traceback__, einfo=einfo)
            self._call_errbacks(value)
        self._signal(signals.task_postrun, task=task, retval=value, state=state)
        if state in {states.SUCCESS, states.FAILURE}:
            self._hook(task.after_return, state, value, task_id, args, kwargs, einfo)

    def _tell_middleware(self, state: str, value: Any) -> None:
        run = self.around
        if run is None or self.hooks is None:
            return
        run.state = state
        if state == states.SUCCESS:
            run.result = value
        else:
            run.exception = value
        # There is no message that could be kept.
        self.hooks.end(run, dead=False, finish=_finished)

    def _call_errbacks(self, exc: BaseException) -> None:
        from celeriac.app.arguments import takes_more_than

        for errback in self.request.errbacks:
            linked = self._linked(errback)
            try:
                given = len(linked.args)
                if linked.immutable:
                    linked.apply(throw=False)
                elif linked.subtask_type:
                    linked.apply((self.request.id,), throw=False)
                elif takes_more_than(linked.type.__header__, 1 + given, linked.kwargs):
                    linked.type(self.request, exc, exc.__traceback__, *linked.args, **linked.kwargs)
                else:
                    linked.apply((self.request.id,), throw=False)
            except Exception:
                logger.exception("error link %r of task %s raised", linked, self.request.id)

    def _again(self, retry: Retry) -> EagerResult[Any]:
        result = retry.sig.apply(throw=False)
        if isinstance(result.result, Retry) and result.result.exc is not None:
            result._cache["result"] = result.result.exc
        return result  # type: ignore[no-any-return]

    def _linked(self, item: Any) -> Any:
        from celeriac.canvas.rebuild import maybe_signature

        return maybe_signature(item, app=self.task.app)

    def _store(self, state: str, value: Any, text: str | None) -> None:
        task = self.task
        if not task.store_eager_result or state in {states.IGNORED, states.REJECTED} or not task.app.results_enabled:
            return
        from celeriac.result.record import build_record

        if task.app.has_own_backend:
            task.app.backend.store_result(self.request.id, value, state, traceback=text, request=self.request)
            return
        record = build_record(task.app, self.request.id or "", state, value, traceback=text, request=self.request)
        task.app.client.store([record])

    def _signal(self, signal: Signal, **named: Any) -> None:
        if signal.receivers:
            request = self.request
            signal.send(self.task, task_id=request.id, args=request.args, kwargs=request.kwargs, **named)

    def _hook(self, hook: Callable[..., None], *args: Any) -> None:
        try:
            hook(*args)
        except Exception:
            logger.exception("hook %s of task %s raised", hook.__name__, self.task.name)


def _hooks_of(task: Task[..., Any]) -> Hooks | None:
    app = task.app
    if not (app._middleware or app.conf.task_middleware or task.middleware):
        return None
    from celeriac.app import middleware

    hooks = middleware.of(app, task)
    return hooks if hooks is not None and hooks.runs else None


def _run_of(task: Task[..., Any], request: Context) -> Run:
    from celeriac.app.middleware import Run

    return Run(task.app, task, request)


def _finished(value: Any) -> Any:
    """Runs a coroutine to its end, on a thread of its own if a loop runs here already."""
    if not isinstance(value, Coroutine):
        return value
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(value)
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import copy_context

    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(copy_context().run, asyncio.run, value).result()


def _listed(value: Any) -> list[Any]:
    if not value:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
