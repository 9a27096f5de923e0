"""Makes, starts and stops the boot steps of a worker."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from celeriac.exceptions import ImproperlyConfigured
from celeriac.utils.imports import symbol_by_name

logger = logging.getLogger("celery.worker")

#: Components of Celery that steps may require: here they are no steps.
_BUILT_IN = ("celery.worker.", "celery.concurrency.")
_CONSUMER_STEP = (
    "the step {name} was added to app.steps['consumer'], and there is no kombu connection here that it could use: "
    "to run code when the worker consumes or stops, connect worker_ready and worker_shutdown, or add the step to "
    "app.steps['worker']; to take messages that are no tasks, use a program of its own with a message library"
)


class Steps:
    """The steps of one worker. Made and used by its main thread."""

    def __init__(self, worker: Any, wanted: Mapping[str, Iterable[Any]]) -> None:
        for step in wanted.get("consumer", ()):
            raise ImproperlyConfigured(_CONSUMER_STEP.format(name=_name(step)))
        self._worker = worker
        self._started: list[Any] = []
        for step in _in_order([symbol_by_name(step) for step in wanted.get("worker", ())]):
            step(worker, **worker.arguments.options).include(worker)

    def start(self) -> None:
        """Starts them, in order. What one raises ends the start of the worker."""
        for step in self._worker.steps:
            step.start(self._worker)
            self._started.append(step)

    def stop(self, *, cold: bool) -> None:
        """Stops those that were started, the last one first. What one raises is logged."""
        for step in self._started:
            _call(step, "close", self._worker)
        for step in reversed(self._started):
            _call(step, "terminate" if cold else "stop", self._worker)
        self._started.clear()


def _call(step: Any, method: str, worker: Any) -> None:
    function = getattr(step, method, None)
    if function is None:
        return
    try:
        function(worker)
    except Exception as exc:
        logger.error("Error on %s of step %s: %r", method, step, exc, exc_info=True)


def _in_order(steps: list[Any]) -> list[Any]:
    """Those that others require come first; otherwise by name, since they come from a set."""
    known = {_name(step): step for step in sorted(steps, key=_name)}
    ordered: dict[str, Any] = {}
    under_way: list[str] = []

    def add(name: str) -> None:
        if name in ordered:
            return
        if name in under_way:
            raise ImproperlyConfigured(f"boot steps require each other: {' -> '.join([*under_way, name])}")
        under_way.append(name)
        for required in known[name].requires or ():
            other = _required(required, known)
            if other is not None:
                add(other)
        under_way.pop()
        ordered[name] = known[name]

    for name in list(known):
        add(name)
    return list(ordered.values())


def _required(required: Any, known: dict[str, Any]) -> str | None:
    """The name of a step that is required, which is added when nobody has; None for what is here without a step."""
    if isinstance(required, str) and required.startswith(_BUILT_IN):
        return None
    step = symbol_by_name(required)
    name = _name(step)
    if name.startswith(_BUILT_IN):
        return None
    known.setdefault(name, step)
    return name


def _name(step: Any) -> str:
    if isinstance(step, str):
        return step
    return str(getattr(step, "name", None) or f"{step.__module__}.{step.__qualname__}")
