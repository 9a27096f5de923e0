"""`app.loader`: imports the modules of an app."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celeriac.utils.imports import find_module, import_from_cwd

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["BaseLoader", "autodiscover_tasks", "find_related_module"]


class BaseLoader:
    """Imports the modules of an app.

    Args:
        app: The app.
    """

    builtin_modules: frozenset[str] = frozenset()
    configured = False
    worker_initialized = False

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        self.app = app
        self.task_modules: set[str] = set()

    def now(self, utc: bool = True) -> datetime:
        """The time; in the machine's zone and naive unless it is to be UTC."""
        return datetime.now(UTC) if utc else datetime.now()  # noqa: DTZ005 -- as Celery's

    @property
    def conf(self) -> Any:
        """The settings."""
        return self.app.conf

    @property
    def default_modules(self) -> tuple[str, ...]:
        """The modules that the settings name."""
        conf = self.app.conf
        return (*self.builtin_modules, *(conf.imports or ()), *(conf.include or ()))

    def import_module(self, module: str, package: str | None = None) -> Any:
        """Imports a module."""
        return import_module(module, package)

    def import_from_cwd(self, module: str, imp: Callable[..., Any] | None = None, package: str | None = None) -> Any:
        """Imports a module that may be in the working directory."""
        return import_from_cwd(module, imp or self.import_module, package=package)

    def import_task_module(self, module: str) -> Any:
        """Imports a module with tasks."""
        self.task_modules.add(module)
        return self.import_from_cwd(module)

    def import_default_modules(self) -> None:
        """Imports what the settings name, and what is to be discovered."""
        self.task_modules.update(self.default_modules)
        self.app.import_default_modules()

    def find_module(self, module: str) -> Any:
        """The spec of a module."""
        return find_module(module)

    def autodiscover_tasks(self, packages: Iterable[str] | None, related_name: str | None = "tasks") -> None:
        """Imports `<package>.tasks` of each package that has one."""
        found = autodiscover_tasks(packages or (), related_name)
        self.task_modules.update(module.__name__ for module in found if module)

    def config_from_object(self, obj: Any, silent: bool = False) -> bool:
        """Reads settings from an object or a module."""
        self.app.config_from_object(obj, silent=silent)
        return True

    def on_task_init(self, task_id: str, task: Any) -> None:
        """Accepted for compatibility: connect `task_prerun`."""

    def on_process_cleanup(self) -> None:
        """Accepted for compatibility: connect `task_postrun`."""

    def on_worker_init(self) -> None:
        """Accepted for compatibility: connect `worker_init`."""

    def on_worker_shutdown(self) -> None:
        """Accepted for compatibility: connect `worker_shutdown`."""

    def on_worker_process_init(self) -> None:
        """Accepted for compatibility: connect `worker_process_init`."""

    def init_worker(self) -> None:
        """Imports the modules, once."""
        if not self.worker_initialized:
            self.worker_initialized = True
            self.import_default_modules()
            self.on_worker_init()

    def init_worker_process(self) -> None:
        """A child starts."""
        self.on_worker_process_init()


def autodiscover_tasks(packages: Iterable[str], related_name: str | None = "tasks") -> list[Any]:
    """The modules of this name of the packages; None for one that has none."""
    return [find_related_module(package, related_name) for package in packages]


def find_related_module(package: str, related_name: str | None) -> Any:
    """A module of a package, or of the package of an app configuration named instead; None when it has none.

    Raises:
        ModuleNotFoundError: There is no such package, or the module imports something that is not there.
    """
    try:
        module = import_module(package)
        if not related_name:
            return module
    except ModuleNotFoundError:
        package = package.rpartition(".")[0]
        if not package:
            raise
    name = f"{package}.{related_name}"
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name == name:
            return None
        raise
