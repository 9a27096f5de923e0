"""The Python side of running tasks: supervisor, fork server, children."""

from __future__ import annotations

# Type checkers take this name for true; importing it would import `typing`.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from celeriac.worker.supervisor import WorkController

__all__ = ["WorkController"]


def __getattr__(name: str) -> Any:
    if name != "WorkController":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module("celeriac.worker.supervisor").WorkController
