"""Tasks that every app has, whatever the project declares: Celery's peers send them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celeriac.app import stores

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["add_builtin_tasks"]

_CLEANUP = "celery.backend_cleanup"


def add_builtin_tasks(app: Celery) -> None:
    """Registers them, but for those that the project declares itself."""
    if _CLEANUP in app._tasks:
        return

    def backend_cleanup() -> None:
        """Removes results that have expired, where the result backend does not by itself."""
        if stores.needs_cleanup(app):
            app.backend.cleanup()

    app._task_from_fun(backend_cleanup, name=_CLEANUP, ignore_result=True)
