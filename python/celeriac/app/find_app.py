"""Finds the app that `-A` names."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter, isfunction, signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

from celeriac.app import SharedTask
from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.base import Celery


#: Functions of a module that are called for its app, when it has no app.
FACTORIES = ("create_app", "make_app")


class AppNotFound(Exception):
    """There is no app where the user said it is."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.hint = hint


def find_app(
    name: str | None,
    *,
    workdir: str | None = None,
    config: str | None = None,
    broker: str | None = None,
    result_backend: str | None = None,
) -> Celery:
    """Finds an app and gives it the settings of the command line.

    Args:
        name: `module`, `package`, `module:attribute`, `module.attribute` or `module:factory()`, also without the
            parentheses; of a module with no app its `create_app` or `make_app`. A Flask app
            that holds an app among its extensions does as well; so does a module that has no app but tasks
            made with `from celeriac import task`: theirs is the default app. None: the default app.
        workdir: Directory to change to first.
        config: Settings module of the default app, or one more for a named one.
        broker: URL that wins over the settings.
        result_backend: Likewise.

    Raises:
        AppNotFound: With a hint.
    """
    if workdir:
        try:
            os.chdir(workdir)
        except OSError as exc:
            raise AppNotFound(f"cannot change to {workdir!r}: {exc.strerror}", "give --workdir a directory") from exc
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    # Through the environment, so that it wins over every other source, and holds in processes started from here.
    for setting, url in (("CELERIAC_BROKER_URL", broker), ("CELERIAC_RESULT_BACKEND", result_backend)):
        if url is not None:
            os.environ[setting] = url
    app = _default_app() if name is None else _named_app(name)
    if config:
        app.config_from_object(_config_module(config))
    return app


def import_tasks(app: Celery) -> None:
    """Imports the modules with tasks that the settings name.

    Raises:
        AppNotFound: One cannot be imported.
    """
    try:
        app.import_default_modules()
    except (AppNotFound, ImproperlyConfigured):
        raise
    except Exception as exc:
        raise AppNotFound(
            f"a module with tasks cannot be imported: {type(exc).__name__}: {exc} ({_place(exc)})",
            "is it named right in `include`, `imports` or -I?"
            if isinstance(exc, ModuleNotFoundError)
            else "importing it with python -c shows the whole traceback",
        ) from exc


def _default_app() -> Celery:
    from celeriac.app.current import get_current_app

    return get_current_app()


def _config_module(name: str) -> str:
    if _exists(name):
        return name
    raise AppNotFound(f"there is no settings module {name!r}", f"is it below {os.getcwd()} or on PYTHONPATH?")


def _named_app(name: str) -> Celery:
    module_name, colon, attribute = name.partition(":")
    if colon:
        return _attribute_app(_import(module_name), attribute)
    if _exists(name):
        return _module_app(_import(name))
    parent, _, attribute = name.rpartition(".")
    if parent and _exists(parent):
        return _attribute_app(_import(parent), attribute)
    raise AppNotFound(
        f"there is no module {name!r} to take an app from",
        f"is it below {os.getcwd()} (see --workdir) or on PYTHONPATH?",
    )


def _exists(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise AppNotFound(
                f"there is no module {name!r}", f"is it below {os.getcwd()} (see --workdir) or on PYTHONPATH?"
            ) from exc
        raise AppNotFound(
            f"{name!r} cannot be imported: {exc} ({_place(exc)})", "is that package installed in this environment?"
        ) from exc
    except Exception as exc:
        raise AppNotFound(
            f"{name!r} cannot be imported: {type(exc).__name__}: {exc} ({_place(exc)})",
            f"python -c 'import {name}' shows the whole traceback",
        ) from exc


def _place(exc: BaseException) -> str:
    """The innermost line of the user's code."""
    place = "no line known"
    trace = exc.__traceback__
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if not filename.startswith("<") and filename != __file__:
            place = f"{os.path.relpath(filename)}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _attribute_app(module: ModuleType, path: str) -> Celery:
    called = path.endswith("()")
    found: Any = module
    for part in path.removesuffix("()").split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise AppNotFound(
                f"{module.__name__!r} has no {path!r}", f"what is the app called in {module.__name__}?"
            ) from None
    if not called and _as_app(found) is None and isfunction(found) and not _needs_arguments(found):
        # A factory without its parentheses.
        called = True
    if called:
        try:
            found = found()
        except Exception as exc:
            raise AppNotFound(
                f"{module.__name__}:{path} failed: {type(exc).__name__}: {exc} ({_place(exc)})",
                "the factory must work without arguments",
            ) from exc
    if isinstance(found, ModuleType):
        return _module_app(found)
    app = _as_app(found)
    if app is None:
        raise AppNotFound(
            f"{module.__name__}:{path} is a {type(found).__name__}, not a Celery app",
            "a factory is named with its parentheses: module:create_app()"
            if callable(found)
            else "name the Celery app, or a Flask app that has it in app.extensions['celery']",
        )
    return app


def _module_app(module: ModuleType) -> Celery:
    for name in ("app", "celery"):
        found = getattr(module, name, None)
        if isinstance(found, ModuleType):
            inner = next((app for n in ("app", "celery") if (app := _as_app(getattr(found, n, None)))), None)
            if inner is not None:
                return inner
        elif (app := _as_app(found)) is not None:
            return app
    if hasattr(module, "__path__") and _exists(f"{module.__name__}.celery"):
        try:
            return _module_app(_import(f"{module.__name__}.celery"))
        except AppNotFound as exc:
            if "has neither" not in str(exc):
                raise
    for found in list(vars(module).values()):
        if (app := _as_app(found)) is not None:
            return app
    for name in FACTORIES:
        # Flask's own names of factories.
        if isfunction(factory := getattr(module, name, None)) and not _needs_arguments(factory):
            return _attribute_app(module, f"{name}()")
    if any(type(found) is SharedTask for found in vars(module).values()):
        return _default_app()
    raise AppNotFound(
        f"{module.__name__!r} has neither a Celery app nor a task",
        f"name it: -A {module.__name__}:NAME, or :create_app() for a factory",
    )


def _needs_arguments(function: Any) -> bool:
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    given = signature(function).parameters.values()
    return any(one.kind in kinds and one.default is Parameter.empty for one in given)


def _as_app(found: Any) -> Celery | None:
    """The object itself, or the app that a Flask app holds."""
    from celeriac.app.base import Celery

    resolve = getattr(type(found), "_get_current_object", None)
    if resolve is not None:
        try:
            found = resolve(found)
        except Exception:
            return None
    if isinstance(found, Celery):
        return found
    extensions = getattr(found, "extensions", None)
    held = extensions.get("celeriac") or extensions.get("celery") if isinstance(extensions, dict) else None
    return held if isinstance(held, Celery) else _adopted(found) or _adopted(held)


def _adopted(found: Any) -> Celery | None:
    """Ours for an app that was made by Celery itself."""
    cls = getattr(sys.modules.get("celery.app.base"), "Celery", None)
    if cls is None or not isinstance(found, cls):
        return None
    app: Celery = import_module("celeriac.foreign").adopt(found)
    return app
