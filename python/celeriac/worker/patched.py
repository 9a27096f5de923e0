"""What libraries have put around the parts of a worker that Celery has: made use of only where somebody has."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from celeriac.app import trace

if TYPE_CHECKING:
    from celeriac.app.context import Context
    from celeriac.app.task import Task
    from celeriac.worker.trace import TaskTracer, Tracer

logger = logging.getLogger("celery.app.trace")


class PatchedTracer:
    """Runs requests of one task through what a library has put around `celery.app.trace.build_tracer`.

    Coroutines too, as plain calls: what is around them knows nothing of `await`.
    """

    is_async = False

    def __init__(self, tracer: Tracer, task: Task[..., Any]) -> None:
        app = tracer.app
        # First: it may wrap the task's `run` or `__call__`.
        self._traced = trace.build_tracer(task.name, task, getattr(app, "loader", None), tracer.node, app=app)
        self._inner: TaskTracer = tracer.plain_task(task)
        self._name = task.name

    def run(self, tag: int, request: Context) -> None:
        """Runs the task and answers.

        Raises:
            RuntimeError: What is around it did not let it run.
        """
        traced = trace.TracedRequest(request, lambda: self._inner.run(tag, request))
        try:
            self._traced(request.id, request.args, request.kwargs, traced)
        except Exception:
            if not traced.ran:
                raise
            # The answer was given.
            logger.error("What is put around the tracing of task %s raised after it", self._name, exc_info=True)
        if not traced.ran:
            raise RuntimeError(f"what is put around celery.app.trace.build_tracer did not run task {self._name}")


class _EndedPoolWorker:
    """Stands for billiard's worker, with no work left: its loop returns at once."""

    maxtasks = 0

    def __getattr__(self, name: str) -> Any:
        return _nothing


def end_of_child() -> None:
    """The end of a child that Celery's pool would have: libraries that send their last data then wrap its loop."""
    pool = sys.modules.get("billiard.pool")
    workloop = None if pool is None else getattr(getattr(pool, "Worker", None), "workloop", None)
    if workloop is None or workloop.__module__ == "billiard.pool":
        return
    try:
        workloop(_EndedPoolWorker())
    except Exception:
        logger.error("What is put around the loop of pool processes raised", exc_info=True)


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass
