"""`Celeriac`: the extension. What belongs to one application is in its `extensions`, nothing here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

from flask import Flask, current_app, has_app_context

from celeriac import Celery, Task, shared_task
from celeriac.app.defaults import SETTINGS
from celeriac.exceptions import ImproperlyConfigured
from celeriac.flask.command import celeriac_command
from celeriac.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Celeriac", "celery_of"]

#: Where the Celery app is among an application's extensions.
KEY = "celeriac"
#: In front of settings in an application's configuration: `CELERIAC_BROKER_URL` is `broker_url`.
PREFIX = "CELERIAC_"
#: A mapping of settings under Celery's names, as Flask's documentation has it; those with the prefix win.
MAPPING = "CELERY"


class Celeriac:
    """Gives a Flask application a Celery app whose tasks run in the application's context.

    Args:
        app: The application; without it, call `init_app` later, in a factory.
        celery_app: A Celery app that is there already, with its tasks; one is made unless given.
        task_cls: Base class of tasks, or its path.
        set_default: Make this the Celery app of `shared_task` (of the application that was set up last).
        **settings: Settings of the Celery app; the application's configuration wins over these.

    Example:
        >>> celeriac = Celeriac()
        >>> @celeriac.task
        ... def add(x: int, y: int) -> int:
        ...     return x + y
    """

    #: `shared_task`: for tasks that are declared before there is an application.
    task = staticmethod(shared_task)

    def __init__(
        self,
        app: Flask | None = None,
        *,
        celery_app: Celery | None = None,
        task_cls: Any = None,
        set_default: bool = True,
        **settings: Any,
    ) -> None:
        self._given = celery_app
        self._task_cls = task_cls
        self._set_default = set_default
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> Celery:
        """Sets an application up: its Celery app is `app.extensions["celeriac"]`, and `flask celeriac` its command.

        The configuration is read when a setting is first asked for, so it may be completed after this.

        Raises:
            RuntimeError: It has been done before, or the Celery app given belongs to another application.
        """
        if KEY in app.extensions:
            raise RuntimeError(f"the Flask application {app.name!r} has been set up by Celeriac before")
        celery_app = self._made(app) if self._given is None else self._adopted(app, self._given)
        celery_app.add_defaults(lambda: {**self._settings, **settings_of(app.config)})
        if self._set_default:
            celery_app.set_default()
        app.extensions[KEY] = celery_app
        app.extensions.setdefault("celery", celery_app)
        app.cli.add_command(celeriac_command)
        return celery_app

    @property
    def celery(self) -> Celery:
        """The Celery app of the application whose context this is.

        Raises:
            RuntimeError: There is no such context, or the application was not set up.
        """
        return celery_of(current_app)

    def _made(self, app: Flask) -> Celery:
        base = symbol_by_name(self._task_cls) or Task
        celery_app = Celery(app.name, task_cls=_task_class(app, base), set_as_current=False)
        return celery_app

    def _adopted(self, app: Flask, celery_app: Celery) -> Celery:
        owner = getattr(celery_app.Task, "flask_app", None)
        if owner is not None:
            raise RuntimeError(f"this Celery app belongs to the Flask application {owner.name!r}: make another one")
        celery_app.Task = _task_class(app, symbol_by_name(self._task_cls) or celery_app.Task)
        return celery_app


def celery_of(app: Flask) -> Celery:
    """The Celery app of an application, be it set up by `Celeriac` or by the function of Flask's documentation.

    Raises:
        RuntimeError: It has none.
    """
    found = app.extensions.get(KEY) or app.extensions.get("celery")
    if found is None:
        raise RuntimeError("this Flask application has no Celery app: Celeriac(app), or init_app(app) in its factory")
    celery_app: Celery = found
    return celery_app


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration, under the names that it gives them.

    Raises:
        ImproperlyConfigured: A name with the prefix is no setting, or the mapping is none.
    """
    given = config.get(MAPPING) or {}
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"{MAPPING} in the configuration of Flask must be a mapping of settings")
    found = dict(given)
    for name, value in config.items():
        if name.startswith(PREFIX):
            setting = name[len(PREFIX) :].lower()
            if setting not in SETTINGS:
                near = get_close_matches(setting, SETTINGS, 1)
                hint = f": is it {PREFIX}{near[0].upper()}?" if near else ""
                raise ImproperlyConfigured(f"{name} in the configuration of Flask is no setting{hint}")
            found[setting] = value
    return found


def _task_class(app: Flask, base: Any) -> Any:
    return type("FlaskTask", (InContext, base), {"flask_app": app, "abstract": True})


class InContext(Task[..., Any]):
    """Base of tasks, before the application's own base. Runs a task in an application context of its own, which ends with it."""

    flask_app: ClassVar[Flask]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        run: Any = getattr(cls, "run", None)
        if inspect.iscoroutinefunction(run) and cls.__call__ is InContext.__call__:
            # Pools look whether it is a coroutine function: then it runs on their loop.
            cls.__call__ = _call_later  # type: ignore[method-assign]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs it."""
        with self._context():
            return super().__call__(*args, **kwargs)

    def _context(self) -> AbstractContextManager[Any]:
        running = self.request_stack.top
        is_plain_call = running is None or running.called_directly
        if is_plain_call and has_app_context() and _current_flask() is self.flask_app:
            # In a request, or in another task: part of that.
            return nullcontext()
        return self.flask_app.app_context()


def _current_flask() -> Flask:
    proxy: Any = current_app
    found: Flask = proxy._get_current_object()
    return found


async def _call_later(self: InContext, *args: Any, **kwargs: Any) -> Any:
    """The same for an `async def`: the context lasts until it has ended."""
    with self._context():
        return await super(InContext, self).__call__(*args, **kwargs)
