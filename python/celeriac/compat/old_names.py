"""What `celery.registry` and `celery.execute` give: names that libraries still import from there."""

from __future__ import annotations

from typing import Any

_NAMES = frozenset({"send_task", "tasks"})


def __getattr__(name: str) -> Any:
    from celeriac.app.current import current_app

    if name in _NAMES:
        return getattr(current_app, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
