"""Django: `django.setup()` before tasks are imported, tasks of installed apps, connections closed around each task.

Installed by every app that is made while `DJANGO_SETTINGS_MODULE` is set.
"""

from __future__ import annotations

import os
import sys
import warnings
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celeriac import _state, signals
from celeriac.exceptions import FixupWarning, ImproperlyConfigured
from celeriac.local import maybe_evaluate

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["DjangoFixup", "fixup"]


def fixup(app: Celery, env: str = "DJANGO_SETTINGS_MODULE") -> DjangoFixup | None:
    """Installs the integration in an app, if the environment names settings of Django and Django is installed."""
    if not os.environ.get(env):
        return None
    try:
        django = import_module("django")
    except ImportError:
        warnings.warn(
            FixupWarning(f"{env} is set, and Django is not installed: its integration is left out"), stacklevel=2
        )
        return None
    if django.VERSION < (1, 11):
        raise ImproperlyConfigured("Django must be of version 1.11 or later")
    return DjangoFixup(app).install()


class DjangoFixup:
    """The integration of one app. What concerns Django itself waits until modules are imported, or a worker starts."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        if _state.is_without_default_app():
            # The threads of a web server, too, mean this app.
            app.set_default()
        self._worker: DjangoWorkerFixup | None = None

    def install(self) -> DjangoFixup:
        """Connects it."""
        # The project's folder comes first.
        sys.path.insert(0, os.getcwd())
        app = self.app
        if not app.has_own_task_class:
            app.task_cls = "celeriac.contrib.django.task:DjangoTask"
        signals.import_modules.connect(self.on_import_modules, sender=app, weak=False)
        signals.worker_init.connect(self.on_worker_init, weak=False)
        return self

    @property
    def worker_fixup(self) -> DjangoWorkerFixup:
        """What a worker needs; imports Django's database layer."""
        if self._worker is None:
            self._worker = DjangoWorkerFixup(self.app)
        return self._worker

    def on_import_modules(self, **kwargs: Any) -> None:
        """Sets Django up before tasks are imported."""
        self.worker_fixup.validate_models()

    def on_worker_init(self, sender: Any = None, **kwargs: Any) -> None:
        """A worker of this app starts; those of others are no business of it."""
        of = maybe_evaluate(getattr(sender, "app", None))
        if of is None or of is maybe_evaluate(self.app):
            self.worker_fixup.worker = sender
            self.worker_fixup.install()

    def autodiscover_tasks(self) -> list[str]:
        """The packages that may have a module of tasks: the installed apps."""
        return [config.name for config in import_module("django.apps").apps.get_app_configs()]

    def now(self, utc: bool = False) -> datetime:
        """The time, as Django has it."""
        if utc:
            return datetime.now(UTC)
        found: datetime = import_module("django.utils.timezone").now()
        return found


class DjangoWorkerFixup:
    """What a worker has to do for Django."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.worker: Any = None
        #: After how many uses connections are closed (`CELERY_DB_REUSE_MAX`); None: after each.
        self.db_reuse_max = app.conf.get("CELERY_DB_REUSE_MAX", None)
        self._uses = 0
        self._db = import_module("django.db")
        self._cache = import_module("django.core.cache")
        self._installed = False

    def validate_models(self) -> None:
        """Sets Django up, and runs its checks unless `CELERY_SKIP_CHECKS` is set."""
        import_module("django").setup()
        backends = getattr(import_module("django.conf").settings, "TASKS", None) or {}
        if any(str(one.get("BACKEND")).startswith("celeriac.django.") for one in backends.values()):
            # Its tasks run those of Django's task framework.
            import_module("celeriac.django.backend")
        if not os.environ.get("CELERY_SKIP_CHECKS"):
            import_module("django.core.checks").run_checks()

    def install(self) -> DjangoWorkerFixup:
        """Connects what happens around tasks; closes what the start of the worker has opened."""
        if not self._installed:
            self._installed = True
            signals.beat_embedded_init.connect(self.close_database, weak=False)
            signals.task_prerun.connect(self.on_task_prerun, weak=False)
            signals.task_postrun.connect(self.on_task_postrun, weak=False)
            signals.worker_process_init.connect(self.on_worker_process_init, weak=False)
        self.close_database()
        self.close_cache()
        return self

    def on_worker_process_init(self, **kwargs: Any) -> None:
        """A child leaves the connections of the process that it was forked from alone, without a word to the server."""
        for connection in self._db.connections.all():
            inherited = getattr(connection, "connection", None)
            if inherited is None:
                continue
            try:
                os.close(inherited.fileno())
            except Exception:  # noqa: S110 -- not every driver has a descriptor, and some have closed it
                pass
        self._close_database()
        self.close_cache()

    def on_task_prerun(self, sender: Any, **kwargs: Any) -> None:
        """Before each task."""
        if not getattr(sender.request, "is_eager", False):
            self.close_database()

    def on_task_postrun(self, sender: Any, **kwargs: Any) -> None:
        """After each task."""
        if not getattr(sender.request, "is_eager", False):
            self.close_database()
            self.close_cache()

    def close_database(self, **kwargs: Any) -> None:
        """Closes this thread's connections, or each so many times."""
        if not self.db_reuse_max:
            self._close_database()
            return
        if self._uses >= self.db_reuse_max * 2:
            self._uses = 0
            self._close_database()
        self._uses += 1

    def _close_database(self) -> None:
        try:
            connections = self._db.connections.all(initialized_only=True)
        except TypeError:  # Django before 4.1
            connections = self._db.connections.all()
        for connection in connections:
            try:
                connection.close()
                self._close_pool(connection)
            except self._db.utils.InterfaceError:
                continue
            except self._db.DatabaseError as exc:
                if "closed" not in str(exc) and "not connected" not in str(exc):
                    raise

    def _close_pool(self, connection: Any) -> None:
        options = (connection.settings_dict or {}).get("OPTIONS") or {}
        if options.get("pool") and hasattr(connection, "close_pool") and self._in_a_child():
            try:
                connection.close_pool()
            except KeyError:
                pass

    def _in_a_child(self) -> bool:
        return getattr(getattr(self.worker, "arguments", None), "pool", None) == "prefork"

    def close_cache(self) -> None:
        """Closes the caches' connections."""
        try:
            self._cache.close_caches()
        except (TypeError, AttributeError):
            pass
