"""Makes a task of a function: what the decorators do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeriac.app.arguments import header_of
from celeriac.exceptions import DuplicateTaskNameWarning
from celeriac.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.task import Task

__all__ = ["rebase", "task_from_function"]

_LIMITS = frozenset({"global_rate_limit", "max_concurrency", "limit_key"})


def task_from_function(
    app: Celery, fun: Callable[..., Any], name: str | None, base: Any, bind: bool, options: dict[str, Any]
) -> Task[..., Any]:
    """A task of a class of its own, whose `run` is the function; the one there is if its name is taken."""
    name = name or app.gen_task_name(fun.__name__, fun.__module__)
    known = app._tasks.get(name)
    if known is not None:
        _warn_of_duplicate(name, known, fun)
        return known
    if options.get("batch") is not None:
        from celeriac.app import batches

        batches.check(name, fun, options["batch"], bound=bind)
    if options.get("middleware"):
        from celeriac.app.middleware import as_middleware

        options["middleware"] = as_middleware(options["middleware"])
    if not _LIMITS.isdisjoint(options):
        from celeriac.app.limits import check_task

        options = check_task(name, options)
    attributes = {
        "app": app,
        "name": name,
        "run": fun if bind else staticmethod(fun),
        "abstract": False,
        "__doc__": fun.__doc__,
        "__module__": fun.__module__,
        "__annotations__": getattr(fun, "__annotations__", {}),
        "__header__": staticmethod(header_of(fun, bound=bind) or _anything),
        "__wrapped__": staticmethod(fun),
        **options,
    }
    task: Task[..., Any] = type(fun.__name__, (symbol_by_name(base) or app.Task,), attributes)()
    # Decorators that wrap a task look for what a function has.
    vars(task).update(__name__=fun.__name__, __qualname__=getattr(fun, "__qualname__", fun.__name__))
    app._tasks[name] = task
    if app.finalized:
        task.bind(app)
    return task


def rebase(task: Task[..., Any], old: Any, new: Any) -> None:
    """Gives a task that was declared on the app's default base the new default."""
    cls = type(task)
    if cls.__bases__ == (old,):
        attributes = {name: value for name, value in vars(cls).items() if name not in {"__dict__", "__weakref__"}}
        task.__class__ = type(cls.__name__, (new,), attributes)


def _anything(*args: Any, **kwargs: Any) -> None:
    """Header of a callable about which nothing is known."""


def _warn_of_duplicate(name: str, known: Task[..., Any], fun: Callable[..., Any]) -> None:
    if getattr(known, "__wrapped__", None) is fun:
        return
    import warnings

    warnings.warn(
        DuplicateTaskNameWarning(
            f"task name {name!r} is taken by {getattr(known, '__wrapped__', known)!r}; {fun!r} is ignored"
        ),
        stacklevel=5,
    )
