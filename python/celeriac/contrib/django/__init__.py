"""For Django: tasks that are sent when the transaction has been committed."""

from __future__ import annotations

from typing import Any

__all__ = ["DjangoTask"]


def __getattr__(name: str) -> Any:
    if name != "DjangoTask":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from celeriac.contrib.django.task import DjangoTask

    return DjangoTask
