"""The application object, its parts, and `shared_task`: tasks for whichever app there is."""

# No `from __future__ import annotations`: its name would hide the module `annotations` of this package.
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from celeriac import _state
from celeriac.app.base import Celery
from celeriac.app.bugreport import bugreport
from celeriac.app.current import app_or_default, pop_current_task, push_current_task, set_default_app
from celeriac.local import Proxy

if TYPE_CHECKING:
    from celeriac.app.decorators import TaskDecorator

__all__ = [
    "Celery",
    "SharedTask",
    "app_or_default",
    "bugreport",
    "default_app",
    "pop_current_task",
    "push_current_task",
    "set_default_app",
    "shared_task",
]


class SharedTask(Proxy):
    """What the decorator gives: the task of the app that is current at each use."""

    __slots__ = ()


def _shared_task(fun: Callable[..., Any] | None = None, **options: Any) -> Any:
    if fun is None:
        return lambda function: _shared_task(function, **options)
    function = fun
    name: str | None = options.pop("name", None)

    def declare(app: Celery) -> Any:
        return app._task_from_fun(function, name=name, **options)

    # Apps made later, and those that are finalised already.
    _state.connect_on_app_finalize(declare)
    for app in _state.active_apps():
        if app.finalized:
            with app._lock:
                declare(app)

    def task_of_current_app() -> Any:
        app = _state.get_current_app()
        return app.tasks[name or app.gen_task_name(function.__name__, function.__module__)]

    return SharedTask(task_of_current_app, doc=function.__doc__)


#: Decorator like `app.task`, for modules that do not know their app: the task exists in every app, and the
#: name stands for that of the current one.
shared_task: "TaskDecorator" = cast("TaskDecorator", _shared_task)

default_app: Celery = _state.default_app
