"""Pools under Celery's names. The engine runs them; the classes are for code that asks which one there is."""

from __future__ import annotations

import os
from typing import Any

from celeriac.utils.imports import symbol_by_name

__all__ = ["get_available_pool_names", "get_implementation"]

ALIASES = {
    "prefork": "celeriac.concurrency.prefork:TaskPool",
    "processes": "celeriac.concurrency.prefork:TaskPool",
    "solo": "celeriac.concurrency.solo:TaskPool",
    "threads": "celeriac.concurrency.thread:TaskPool",
    "gevent": "celeriac.concurrency.gevent:TaskPool",
    "custom": os.environ.get("CELERY_CUSTOM_WORKER_POOL", ""),
}


def get_implementation(cls: Any) -> Any:
    """The class of a pool by its name."""
    return symbol_by_name(ALIASES.get(cls) or cls if isinstance(cls, str) else cls)


def get_available_pool_names() -> tuple[str, ...]:
    """The names of pools."""
    return tuple(ALIASES)
