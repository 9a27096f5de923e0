"""Runs requests of a task that has middleware: its hooks are called around the task, and told how it ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from celeriac.app import middleware
from celeriac.app.middleware import Run
from celeriac.app.options import task_options
from celeriac.exceptions import Reject
from celeriac.worker.queue_retries import becomes_dead_letter
from celeriac.worker.trace import TaskTracer

if TYPE_CHECKING:
    from celeriac.app.context import Context
    from celeriac.app.middleware import Hooks
    from celeriac.app.task import Task
    from celeriac.worker.event_loop import LoopLimit
    from celeriac.worker.trace import Tracer

__all__ = ["HookedTracer", "hooks_of", "tell_failure"]

_STATES = {
    "success": "SUCCESS",
    "retry": "RETRY",
    "failure": "FAILURE",
    "ignored": "IGNORED",
    "rejected": "REJECTED",
    "requeued": "REJECTED",
    "dead_lettered": "REJECTED",
}


def hooks_of(app: Any, task: Any) -> Hooks | None:
    """The middleware around the runs of a task; None without any."""
    hooks = middleware.of(app, task)
    return hooks if hooks is not None and hooks.runs else None


def tell_failure(app: Any, task: Task[..., Any], request: Context, exc: BaseException) -> None:
    """Tells middleware of a failure outside of the task's code: its process was killed or lost."""
    hooks = hooks_of(app, task) if getattr(task, "tracer_class", None) is None else None
    if hooks is not None:
        run = Run(app, task, request)
        run.state, run.exception = "FAILURE", exc
        hooks.failed(run)


class HookedTracer(TaskTracer):
    """Runs requests of one task, with its middleware around them.

    1. `before_task` of all, then the task's `before_start`, then the task: within its time limits.
    2. When all is known of its end, and logged: `on_...`, then `after_task`.
    3. The answer. On a loop it is held back until hooks that are coroutines have ended.
    """

    def __init__(self, tracer: Tracer, task: Task[..., Any], hooks: Hooks) -> None:
        super().__init__(tracer, task)
        self._app = tracer.app
        self._hooks = hooks
        self._inner, self._function, self._awaited = self._function, self._call, self._acall
        self._frames = 2
        self._starts, self._before_start = self._before_start, None
        self._answer: Any = self._respond
        self._respond: Any = self._respond_after_hooks
        # Coroutines of hooks that nobody waits for; kept, or they might be collected. The loop's own.
        self._left: set[asyncio.Task[Any]] = set()

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        """Stands for the task's function."""
        run = self._open()
        self._hooks.begin(run, self._tracer.run_coroutine)
        if self._starts is not None:
            self._starts(run.id, run.args, run.kwargs)
        return self._inner(*args, **kwargs)

    async def _acall(self, *args: Any, **kwargs: Any) -> Any:
        """The same on the loop of this child."""
        run = self._open()
        await self._hooks.abegin(run)
        if self._starts is not None:
            self._starts(run.id, run.args, run.kwargs)
        return await self._inner(*args, **kwargs)

    def _open(self) -> Run:
        request = self._requests.get()[-1]
        run = request.__dict__["_run"] = Run(self._app, self._task, request)
        return run

    async def run_async(self, tag: int, request: Context, limit: LoopLimit, *, guarded: bool) -> None:
        if not self._hooks.awaits:
            await super().run_async(tag, request, limit, guarded=guarded)
            return
        held: list[Any] = []
        request.__dict__["_held"] = held
        try:
            await super().run_async(tag, request, limit, guarded=guarded)
        finally:
            # Whoever answers from now on does it at once.
            request.__dict__["_held"] = None
        if not held:
            # It ended before its first step, and was answered.
            return
        run, dead, answer = held
        try:
            await self._hooks.aend(run, dead=dead)
        except asyncio.CancelledError:
            if tag in limit.cancelled:
                raise
            # A limit that passed in a hook: the task itself has ended.
        self._answer(*answer)
        del request.__dict__["_run"]

    def _end(self, tag: int, request: Context, runtime: float, retval: Any, results: Any) -> None:
        run: Run | None = request.__dict__.get("_run")
        if run is not None:
            if results is None:
                run.exception = retval
            else:
                run.result = retval
        super()._end(tag, request, runtime, retval, results)

    def _respond_after_hooks(self, tag: int, kind: str, *answer: Any) -> None:
        request = self._requests.get()[-1]
        run: Run | None = request.__dict__.get("_run")
        if run is None:
            self._answer(tag, kind, *answer)
            return
        run.state = _STATES.get(kind, kind.upper())
        dead = self._is_dead(kind, run.exception) or (
            kind in ("failure", "rejected") and becomes_dead_letter(self._tracer.app, self._task, request)
        )
        held = request.__dict__.get("_held")
        if held is not None:
            held.extend((run, dead, (tag, kind, *answer)))
            return
        self._hooks.end(run, dead=dead, finish=self._finish)
        self._answer(tag, kind, *answer)
        # They hold one another: what the task held is freed now, not by the collector.
        del request.__dict__["_run"]

    def _is_dead(self, kind: str, exc: BaseException | None) -> bool:
        """Whether the supervisor will keep the message as a dead letter."""
        task: Any = self._task
        if not task.acks_late:
            return False
        if kind == "rejected":
            return isinstance(exc, Reject)
        return kind == "failure" and not task_options(task)["acks_on_failure"]

    def _finish(self, coroutine: Any) -> None:
        """Waits for a hook; where the loop runs that this is called on, it goes on by itself."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._tracer.run_coroutine(coroutine)
            return
        left = loop.create_task(coroutine)
        self._left.add(left)
        left.add_done_callback(self._left.discard)
