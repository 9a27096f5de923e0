"""Runs the requests of a batch that the supervisor has gathered: one call of the function, an answer for each request."""

from __future__ import annotations

import threading
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from celeriac._state import current_tasks
from celeriac.app import batches
from celeriac.app.batches import BatchRequest
from celeriac.app.context import Context
from celeriac.exceptions import Reject
from celeriac.worker.limits import SoftLimit, soft_limit
from celeriac.worker.middleware import HookedTracer, hooks_of
from celeriac.worker.request import Refused
from celeriac.worker.trace import TaskTracer

if TYPE_CHECKING:
    from collections.abc import Callable

    from celeriac._core import Execution
    from celeriac.app.middleware import Hooks
    from celeriac.app.task import Task
    from celeriac.worker.trace import Tracer

__all__ = ["GatheredTracer", "HookedGatheredTracer", "gathered_tracer"]


class GatheredTracer(TaskTracer):
    """Runs batches of one task.

    1. opens every message; those that cannot be read are refused by themselves;
    2. runs the function once;
    3. answers each request under its own tag, as soon as it has ended, and the batch when all have been.

    A soft or hard time limit, and the end of the process, are those of the batch.
    """

    def __init__(self, tracer: Tracer, task: Task[..., Any]) -> None:
        super().__init__(tracer, task)
        # Each batch runs as a whole, also where coroutines do not.
        self.is_async = False

    def run_batch(self, execution: Execution, left: dict[int, Execution]) -> None:
        """Runs a batch and answers.

        Args:
            execution: What the supervisor sent.
            left: Its requests by tag; those that are answered are taken out.
        """
        opened = []
        for tag, member in tuple(left.items()):
            request = self._read(member)
            if request is None:
                del left[tag]
            else:
                opened.append((tag, request))
        if opened:
            guarded = execution.soft_limit is not None
            _Run(self, execution.tag, opened, lambda tag: left.pop(tag, None), guarded=guarded).run()
        self._tracer.channel.respond(execution.tag, "ignored", (), (), "batch", None)

    def run(self, tag: int, request: Context) -> None:
        """Runs a request that came alone: the supervisor does not know (yet) that its task wants batches."""
        _Run(self, tag, [(tag, request)], lambda _: None, guarded=True).run()

    def begin_request(self, request: Context) -> None:
        """What comes before a request may be given to the function; may raise what a task may raise."""
        if self._before_start is not None:
            self._before_start(request.id, request.args, request.kwargs)

    def _read(self, member: Execution) -> Context | None:
        try:
            return self._tracer.opener.open(member)
        except Refused as exc:
            self._tracer.refused(member, exc)
        except Exception as exc:
            self._tracer.internal_error(member, exc)
        return None

    def _raised(self, exc: Exception, request: Context) -> Any:
        kind, *rest = super()._raised(exc, request)
        return ("dead_lettered" if isinstance(exc, _DeadLetter) else kind, *rest)


class HookedGatheredTracer(GatheredTracer, HookedTracer):
    """The same for a task with middleware: its hooks are called for each request."""

    def __init__(self, tracer: Tracer, task: Task[..., Any], hooks: Hooks) -> None:
        HookedTracer.__init__(self, tracer, task, hooks)
        # Around each request, not around the function.
        self._function, self._before_start = self._inner, self._starts
        self.is_async = False

    def begin_request(self, request: Context) -> None:
        self._hooks.begin(self._open(), self._tracer.run_coroutine)
        super().begin_request(request)

    def _is_dead(self, kind: str, exc: BaseException | None) -> bool:
        return kind == "dead_lettered" or super()._is_dead(kind, exc)


def gathered_tracer(tracer: Tracer, task: Task[..., Any]) -> GatheredTracer:
    """What runs batches of a task: with its middleware, if it has any."""
    hooks = hooks_of(tracer.app, task)
    return GatheredTracer(tracer, task) if hooks is None else HookedGatheredTracer(tracer, task, hooks)


class _DeadLetter(Reject):
    """A request of a batch was made a dead letter."""

    def __repr__(self) -> str:
        return str(self.reason)

    __str__ = __repr__

    def __reduce__(self) -> Any:
        return Reject, (self.reason, self.requeue)


# As which it is stored: whoever asks for the result knows this class.
_DeadLetter.__name__ = _DeadLetter.__qualname__ = Reject.__name__
_DeadLetter.__module__ = Reject.__module__


class _Run:
    """One run of the function."""

    def __init__(
        self,
        tracer: GatheredTracer,
        tag: int,
        opened: list[tuple[int, Context]],
        ended: Callable[[int], object],
        *,
        guarded: bool,
    ) -> None:
        self._tracer, self._task, self._tag = tracer, tracer._task, tag
        self._limit = tracer._limit
        self._ended = ended
        # Only there a signal is lost that comes while a request is being answered.
        self._guarded = guarded and isinstance(self._limit, SoftLimit)
        self._thread = threading.get_ident()
        self._opened = opened
        # Whether each request's result is stored, by tag.
        self._stores: dict[int, bool] = {}
        self._started = perf_counter()

    def run(self) -> None:
        """Runs the function, and ends what it has not ended itself."""
        tracer, task = self._tracer, self._task
        requests = [made for made in (self._begin(*pair) for pair in self._opened) if made is not None]
        if not requests:
            return
        self._started = perf_counter()
        tasks, running = current_tasks.get(), tracer._requests.get()
        # `self.request` is nobody's here.
        context = Context(task=task.name, args=(), kwargs={}, hostname=requests[0].request.hostname)
        current_tasks.set((*tasks, task))
        tracer._requests.set((*running, context))
        try:
            try:
                value = self._call(requests)
            except Exception as exc:
                self._raised(requests, exc)
            else:
                self._returned(requests, value)
        finally:
            tracer._requests.set(running)
            current_tasks.set(tasks)

    def _call(self, requests: list[BatchRequest]) -> Any:
        tracer, limit = self._tracer, self._limit
        limit.running = self._tag
        try:
            value = tracer._function(requests)
            if type(value) is CoroutineType:
                value = tracer._tracer.run_coroutine(value)
        finally:
            limit.running = None
        return value

    def _begin(self, tag: int, request: Context) -> BatchRequest | None:
        tracer = self._tracer
        self._stores[tag] = tracer._begin(tag, request)
        made = BatchRequest(request, self._settle)
        running = tracer._requests.get()
        tracer._requests.set((*running, request))
        try:
            tracer.begin_request(request)
        except Exception as exc:
            made._end("raised", exc)
            return None
        finally:
            tracer._requests.set(running)
        return made

    def _returned(self, requests: list[BatchRequest], value: Any) -> None:
        try:
            values = batches.values_of(self._task, requests, value)
        except ValueError as exc:
            # Its work is done, and is not repeated.
            self._raised(requests, exc, repeats=False)
            return
        for request, one in zip(requests, values, strict=True):
            if not request.settled:
                request._end("fail" if isinstance(one, BaseException) else "ack", one)

    def _raised(self, requests: list[BatchRequest], exc: Exception, *, repeats: bool = True) -> None:
        trace = exc.__traceback__
        for request in requests:
            if request.settled:
                continue
            options = batches.retries(self._task, exc, request.request) if repeats else None
            # Answering one request clears what the exception holds.
            exc.__traceback__ = trace
            if options is None:
                request._end("raised", exc)
            else:
                request._end("retry", options)

    def _settle(self, made: BatchRequest, how: str, value: Any) -> None:
        """Ends one request, in the middle of the function or after it."""
        limit = self._limit
        running = limit.running
        # A time limit of the batch must not end the answer to one request half way.
        limit.running = None
        try:
            self._answer(made.request, how, value)
        finally:
            limit.running = running
        if (
            self._guarded
            and running is not None
            and self._thread == threading.get_ident()
            and self._tracer._tracer.channel.soft_limit_passed(running)
        ):
            limit.running = None
            raise soft_limit.exception

    def _answer(self, request: Context, how: str, value: Any) -> None:
        tracer = self._tracer
        tag = request._tag or 0
        runtime = perf_counter() - self._started
        tasks, running = current_tasks.get(), tracer._requests.get()
        current_tasks.set((*tasks, self._task))
        tracer._requests.set((*running, request))
        try:
            try:
                results = self._follow(tag, request, how, value)
            except Exception as exc:
                tracer._end(tag, request, runtime, exc, None)
            else:
                tracer._end(tag, request, runtime, value, results)
        finally:
            tracer._requests.set(running)
            current_tasks.set(tasks)
            self._ended(tag)

    def _follow(self, tag: int, request: Context, how: str, value: Any) -> Any:
        """What follows its end: the records of a success; everything else is raised."""
        match how:
            case "ack":
                return self._tracer._follow(request, value, self._stores[tag])
            case "retry":
                raise self._task.retry(**value)
            case "dead_letter":
                raise _DeadLetter(value, requeue=False)
            case _:
                raise value if isinstance(value, Exception) else RuntimeError(repr(value))
