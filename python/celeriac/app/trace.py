"""`build_tracer` and its relatives: the place where libraries put something around every run of a task.

A worker, and an eager call, run tasks by code of their own. Only when `build_tracer` has been replaced (as Sentry's and
others' integrations do) is a run led through what the replacement gives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac import states
from celeriac.app.task import Task
from celeriac.utils.objects import mro_lookup

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.context import Context

__all__ = [
    "TraceInfo",
    "TracedRequest",
    "build_tracer",
    "is_patched",
    "reset_worker_optimizations",
    "setup_worker_optimizations",
    "task_has_custom",
    "trace_ok_t",
    "trace_task",
]

logger = logging.getLogger("celery.app.trace")

EXCEPTION_STATES = states.EXCEPTION_STATES
IGNORE_STATES = frozenset({states.IGNORED, states.RETRY, states.REJECTED})


class trace_ok_t(NamedTuple):
    """What a trace function returns."""

    retval: Any
    info: Any
    runtime: float | None
    retstr: str | None


class TraceInfo:
    """State and value of a task that did not succeed."""

    __slots__ = ("retval", "state")

    def __init__(self, state: str, retval: Any = None) -> None:
        self.state = state
        self.retval = retval


class TracedRequest(dict[str, Any]):
    """What a trace function is given as `request`: the message's headers, and how to run the request itself.

    Args:
        context: The request.
        run: Runs it.
    """

    def __init__(self, context: Context, run: Callable[[], Any]) -> None:
        super().__init__({key: value for key, value in context.__dict__.items() if key[:1] != "_"})
        self["headers"] = context.headers
        self.context = context
        self._run = run
        #: Whether it has been run: whoever is around it may do so once.
        self.ran = False

    def run(self, args: Any, kwargs: Any) -> Any:
        """Runs the request, with these arguments."""
        self.ran = True
        self.context.args, self.context.kwargs = args, kwargs
        return self._run()


def task_has_custom(task: Task[..., Any], attr: str) -> bool:
    """Whether a task's class, or somebody who patched `Task`, has an attribute of its own in place of ours."""
    found: Any = mro_lookup(type(task), attr, stop={Task, object}, monkey_patched=[Task.__module__])
    return found is not None


def build_tracer(
    name: str,
    task: Task[..., Any],
    loader: Any = None,
    hostname: str | None = None,
    store_errors: bool = True,
    eager: bool = False,
    propagate: bool = False,
    app: Celery | None = None,
    **options: Any,
) -> Callable[..., trace_ok_t]:
    """A function that runs a task: `trace(uuid, args, kwargs, request)`.

    Args:
        name: The task's name.
        task: The task.
        loader: Accepted for compatibility, as are `hostname`, `store_errors` and further options.
        eager: It is not a worker that runs it.
        propagate: An eager run raises what the task raises.
        app: Whose task it is.
    """

    def trace(uuid: str, args: Any, kwargs: Any, request: Any = None) -> trace_ok_t:
        if isinstance(request, TracedRequest):
            value = request.run(args, kwargs)
            return trace_ok_t(value, None, None, None)
        # Called by somebody who is no worker, such as a test of a library.
        result = task.apply(args, kwargs, task_id=uuid, throw=propagate)
        info = None if result.state == states.SUCCESS else TraceInfo(result.state, result.result)
        return trace_ok_t(result.result, info, None, repr(result.result))

    return trace


_own_build_tracer = build_tracer


def is_patched() -> bool:
    """Whether somebody has put something around `build_tracer`."""
    return build_tracer is not _own_build_tracer


def trace_task(task: Task[..., Any], uuid: str, args: Any, kwargs: Any, request: Any = None, **opts: Any) -> trace_ok_t:
    """Runs a task by a tracer of its own, made on first use."""
    if task.__trace__ is None:
        task.__trace__ = build_tracer(task.name, task, **opts)
    found: trace_ok_t = task.__trace__(uuid, args, kwargs, request)
    return found


def setup_worker_optimizations(app: Celery, hostname: str | None = None) -> None:
    """Accepted for compatibility: there is nothing to set up."""


def reset_worker_optimizations(app: Celery | None = None) -> None:
    """Accepted for compatibility: there is nothing to take back."""
