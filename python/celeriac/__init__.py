"""Celery's API and wire format, Python tasks, a Rust engine.

Names are loaded on first use, so that `import celeriac` costs a web process next to nothing.

Example:
    >>> from celeriac import task
    >>> @task
    ... def add(x: int, y: int) -> int:
    ...     return x + y
    >>> result = add.delay(2, 3)
"""

from __future__ import annotations

# Type checkers take this name for true; importing it would import `typing`.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from celeriac._core import __version__
    from celeriac.app import shared_task
    from celeriac.app import shared_task as task
    from celeriac.app.base import Celery
    from celeriac.app.batches import Batch
    from celeriac.app.bugreport import bugreport
    from celeriac.app.current import current_app, current_task
    from celeriac.app.emitted import Event
    from celeriac.app.http_tasks import http_task
    from celeriac.app.outbox import outbox
    from celeriac.app.task import Task
    from celeriac.canvas.chain import chain
    from celeriac.canvas.chord import chord
    from celeriac.canvas.chunks import chunks, xmap, xstarmap
    from celeriac.canvas.group import group
    from celeriac.canvas.rebuild import maybe_signature
    from celeriac.canvas.signature import Signature, signature, subtask
    from celeriac.entities import Exchange, Queue, binding
    from celeriac.queues import Backoff, QueueDefaults
    from celeriac.result import AsyncResult
    from celeriac.utils import uuid

__all__ = [
    "AsyncResult",
    "Backoff",
    "Batch",
    "Celery",
    "Event",
    "Exchange",
    "Queue",
    "QueueDefaults",
    "Signature",
    "Task",
    "__version__",
    "binding",
    "bugreport",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "http_task",
    "maybe_signature",
    "outbox",
    "shared_task",
    "signature",
    "subtask",
    "task",
    "uuid",
    "xmap",
    "xstarmap",
]

_HOMES = {
    "AsyncResult": "celeriac.result",
    "Backoff": "celeriac.queues",
    "Batch": "celeriac.app.batches",
    "Celery": "celeriac.app.base",
    "Event": "celeriac.app.emitted",
    "Exchange": "celeriac.entities",
    "Queue": "celeriac.entities",
    "QueueDefaults": "celeriac.queues",
    "Signature": "celeriac.canvas.signature",
    "Task": "celeriac.app.task",
    "__version__": "celeriac._core",
    "binding": "celeriac.entities",
    "bugreport": "celeriac.app.bugreport",
    "chain": "celeriac.canvas.chain",
    "chord": "celeriac.canvas.chord",
    "chunks": "celeriac.canvas.chunks",
    "current_app": "celeriac.app.current",
    "current_task": "celeriac.app.current",
    "group": "celeriac.canvas.group",
    "http_task": "celeriac.app.http_tasks",
    "maybe_signature": "celeriac.canvas.rebuild",
    "outbox": "celeriac.app.outbox",
    "shared_task": "celeriac.app",
    "signature": "celeriac.canvas.signature",
    "subtask": "celeriac.canvas.signature",
    "task": "celeriac.app",
    "uuid": "celeriac.utils",
    "xmap": "celeriac.canvas.chunks",
    "xstarmap": "celeriac.canvas.chunks",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        from importlib import import_module

        value = getattr(import_module(home), "shared_task" if name == "task" else name)
        globals()[name] = value
        return value
    if name in {"VERSION_BANNER", "SERIES"}:
        return "celeriac"
    if name == "VERSION":
        from celeriac._core import __version__ as version

        return tuple(int(part) for part in version.split(".")[:3])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
