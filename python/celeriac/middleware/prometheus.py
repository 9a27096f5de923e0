"""Prometheus: what a client publishes, counted by `prometheus_client` in the client's own process.

    app.add_middleware(Prometheus())

The worker has `/metrics` of its own (`--health-address`), which counts what it runs, for all of its children: nothing
of that is repeated here. Of tasks this counts only in processes that are set up for it (`tasks`).
"""

from __future__ import annotations

import os
import time
from typing import Any
from weakref import WeakKeyDictionary

from celeriac.middleware import Call, Middleware, Run

try:
    import prometheus_client as client
except ImportError as exc:
    raise ImportError("celeriac.middleware.prometheus needs its client: pip install prometheus_client") from exc

__all__ = ["Prometheus"]

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Prometheus(Middleware):
    """Counts.

    - `celeriac_client_published_total{task,queue}`, `celeriac_client_publish_errors_total{task,error}`,
      `celeriac_client_publish_seconds{task}`
    - `celeriac_task_runs_total{task,state}`, `celeriac_task_run_seconds{task}`: with `tasks`.

    Args:
        registry: Instead of the client's own one.
        tasks: Whether runs of tasks are counted, in the process that runs them. None: where the client's multiprocess
            mode is set up (`PROMETHEUS_MULTIPROC_DIR`); without that, numbers of children are nobody's to read.
    """

    def __init__(self, *, registry: Any = None, tasks: bool | None = None) -> None:
        self._metrics = _metrics_in(client.REGISTRY if registry is None else registry)
        self._tasks = bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR")) if tasks is None else tasks

    def before_publish(self, call: Call) -> None:
        """The time runs."""
        call.data[self] = time.perf_counter()

    def after_publish(self, call: Call, exception: BaseException | None) -> None:
        """Counts the call."""
        metrics = self._metrics
        metrics.publish_seconds.labels(call.name).observe(time.perf_counter() - call.data[self])
        if exception is None:
            metrics.published.labels(call.name, call.routing_key or "").inc()
        else:
            metrics.publish_errors.labels(call.name, type(exception).__name__).inc()

    def before_task(self, run: Run) -> None:
        """The time runs."""
        run.data[self] = time.perf_counter()

    def on_failure(self, run: Run, exception: BaseException) -> None:
        """Of a task whose process was killed nothing else is told."""
        if self._tasks and self not in run.data:
            self._metrics.runs.labels(run.task.name, run.state).inc()

    def after_task(self, run: Run) -> None:
        """Counts the run."""
        if self._tasks:
            self._metrics.run_seconds.labels(run.task.name).observe(time.perf_counter() - run.data[self])
            self._metrics.runs.labels(run.task.name, run.state).inc()


class _Metrics:
    """The metrics of one registry."""

    def __init__(self, registry: Any) -> None:
        self.published = client.Counter(
            "celeriac_client_published", "Calls that the broker took.", ["task", "queue"], registry=registry
        )
        self.publish_errors = client.Counter(
            "celeriac_client_publish_errors", "Calls that were refused.", ["task", "error"], registry=registry
        )
        self.publish_seconds = client.Histogram(
            "celeriac_client_publish_seconds",
            "From the call to the broker's answer.",
            ["task"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self.runs = client.Counter(
            "celeriac_task_runs", "Runs of tasks, by how they ended.", ["task", "state"], registry=registry
        )
        self.run_seconds = client.Histogram(
            "celeriac_task_run_seconds", "How long runs took.", ["task"], registry=registry
        )


# A registry takes each name once; two apps of a process share what there is.
_known: WeakKeyDictionary[Any, _Metrics] = WeakKeyDictionary()


def _metrics_in(registry: Any) -> _Metrics:
    found = _known.get(registry)
    if found is None:
        found = _known[registry] = _Metrics(registry)
    return found
