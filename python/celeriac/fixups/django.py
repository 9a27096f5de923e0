"""Django: set up before task modules are imported, and its connections closed around every task, as with Celery.

An app that is made while `DJANGO_SETTINGS_MODULE` is set has this by itself.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celeriac import _state, signals
from celeriac.exceptions import FixupWarning
from celeriac.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["DjangoFixup", "DjangoWorkerFixup", "fixup"]

#: Tasks of an app with Django have `delay_on_commit`.
TASK_CLASS = "celeriac.contrib.django.task:DjangoTask"


def fixup(app: Celery, env: str = "DJANGO_SETTINGS_MODULE") -> DjangoFixup | None:
    """Installs the fixup when the environment names Django's settings."""
    if not os.environ.get(env):
        return None
    try:
        import_module("django")
    except ImportError:
        warnings.warn(FixupWarning(f"{env} is set, but Django is not installed: nothing is done for it"), stacklevel=3)
        return None
    return DjangoFixup(app).install()


class DjangoFixup:
    """What an app of a Django project needs, in any process.

    Args:
        app: The app.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        if _state.is_without_default_app():
            # Also the threads of a web server use it.
            app.set_default()
        # Made when it is first needed: Django's settings may not be readable before.
        self._worker_fixup: DjangoWorkerFixup | None = None

    def install(self) -> DjangoFixup:
        """Waits for the worker's signals; gives itself."""
        # The project's folder comes first, as in `manage.py`.
        sys.path.insert(0, os.getcwd())
        if not self.app._custom_task_cls_used:
            self.app.task_cls = TASK_CLASS
        signals.import_modules.connect(self.on_import_modules, sender=self.app, weak=False)
        signals.worker_init.connect(self.on_worker_init, weak=False)
        return self

    @property
    def worker_fixup(self) -> DjangoWorkerFixup:
        """The part for workers."""
        if self._worker_fixup is None:
            self._worker_fixup = DjangoWorkerFixup(self.app)
        return self._worker_fixup

    def on_import_modules(self, **kwargs: Any) -> None:
        """Before task modules are imported: models must be there."""
        self.worker_fixup.validate_models()

    def on_worker_init(self, sender: Any = None, **kwargs: Any) -> None:
        """A worker starts; if it is another app's, that has a fixup of its own."""
        app = getattr(sender, "app", None)
        if app is not None and app is not self.app:
            return
        self.worker_fixup.worker = sender
        self.worker_fixup.install()

    def autodiscover_tasks(self) -> list[str]:
        """Packages in which `app.autodiscover_tasks()` looks: those of all installed applications."""
        apps = import_module("django.apps").apps
        return [config.name for config in apps.get_app_configs()]


class DjangoWorkerFixup:
    """What a worker of a Django project needs.

    Args:
        app: The app.
    """

    #: The worker, once it has started.
    worker: Any = None

    def __init__(self, app: Celery) -> None:
        self.app = app
        #: Connections live for so many tasks (`CELERY_DB_REUSE_MAX`); None: for one.
        self.db_reuse_max: int | None = app.conf.first("db_reuse_max", "CELERY_DB_REUSE_MAX")
        self._db_recycles = 0
        self._db = import_module("django.db")
        self._cache = import_module("django.core.cache")
        self.interface_errors: tuple[type[Exception], ...] = (self._db.InterfaceError,)
        self.DatabaseError: type[Exception] = self._db.DatabaseError

    def django_setup(self) -> None:
        """Loads settings and applications."""
        import_module("django").setup()

    def validate_models(self) -> None:
        """The same, and Django's checks, unless `CELERY_SKIP_CHECKS` is set."""
        self.django_setup()
        if not os.environ.get("CELERY_SKIP_CHECKS"):
            import_module("django.core.checks").run_checks()

    def install(self) -> DjangoWorkerFixup:
        """Waits for the signals of tasks; gives itself."""
        signals.beat_embedded_init.connect(self.close_database)
        signals.task_prerun.connect(self.on_task_prerun)
        signals.task_postrun.connect(self.on_task_postrun)
        signals.worker_process_init.connect(self.on_worker_process_init)
        self.close_database()
        self.close_cache()
        return self

    def on_worker_process_init(self, **kwargs: Any) -> None:
        """In a new child: what it has inherited is its parent's, and is left without a word to the server."""
        for connection in self._db.connections.all():
            if connection.connection:
                self._close_descriptor(connection)
        self._close_database()
        self.close_cache()

    def _close_descriptor(self, connection: Any) -> None:
        try:
            with connection.wrap_database_errors:
                os.close(connection.connection.fileno())
        except self.interface_errors:
            pass
        except (AttributeError, OSError, TypeError):
            pass  # Not every driver has a socket to show.

    def on_task_prerun(self, sender: Any, **kwargs: Any) -> None:
        """Before a task."""
        if not getattr(sender.request, "is_eager", False):
            self.close_database()

    def on_task_postrun(self, sender: Any, **kwargs: Any) -> None:
        """After a task."""
        if not getattr(sender.request, "is_eager", False):
            self.close_database()
            self.close_cache()

    def close_database(self, **kwargs: Any) -> None:
        """Closes the connections, unless they are to be used again."""
        if not self.db_reuse_max:
            self._close_database()
            return
        if self._db_recycles >= self.db_reuse_max * 2:
            self._db_recycles = 0
            self._close_database()
        self._db_recycles += 1

    def _close_database(self) -> None:
        for connection in self._db.connections.all(initialized_only=True):
            try:
                connection.close()
                self._close_pool(connection)
            except self.interface_errors:
                pass
            except self.DatabaseError as exc:
                if "closed" not in str(exc) and "not connected" not in str(exc):
                    raise

    def _close_pool(self, connection: Any) -> None:
        settings = symbol_by_name("django.conf:settings").DATABASES.get(connection.alias, {})
        close: Callable[[], None] | None = getattr(connection, "close_pool", None)
        if close is None or not (settings.get("OPTIONS") or {}).get("pool") or not self._is_prefork():
            return
        try:
            close()
        except KeyError:
            pass  # There was none.

    def _is_prefork(self) -> bool:
        pool = getattr(self.worker, "pool_cls", None) or "prefork"
        return "prefork" in (pool if isinstance(pool, str) else pool.__module__)

    def close_cache(self) -> None:
        """Closes the caches."""
        try:
            self._cache.close_caches()
        except (TypeError, AttributeError):
            pass  # A cache without a connection.
