"""Which app and which task are current: what modules below the app may know of it.

The stack of running tasks is a context variable: each thread and each coroutine has its own.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celeriac.local import Proxy

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.task import Task

#: Whether settings that name no broker mean Celery's default, not the embedded one. Written once, by `compat.install`.
celery_defaults = False

# The app of last resort; written once by get_default_app, or by set_default_app.
_default_app: Celery | None = None
_default_lock = threading.Lock()
# The app made last (or set by hand), for each thread; new threads see the default app.
_local = threading.local()
# Apps that are alive, and what each of them has to do when it is finalised (shared tasks).
_apps: weakref.WeakSet[Celery] = weakref.WeakSet()
_on_finalize: list[Callable[[Celery], Any]] = []

#: Tasks that run here, innermost last. Workers, which run many, set it themselves.
current_tasks: ContextVar[tuple[Task[..., Any], ...]] = ContextVar("celeriac_tasks", default=())
_join_allowed: ContextVar[bool | None] = ContextVar("celeriac_join_allowed", default=None)


#: This process. Kept, since asking the system costs half a microsecond, and sending a task asks several times.
pid = os.getpid()


def _after_fork() -> None:
    """A lock that another thread held during the fork would stay locked for ever."""
    global _default_lock, pid
    pid = os.getpid()
    _default_lock = threading.Lock()
    for app in active_apps():
        app.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def register_app(app: Celery) -> None:
    """Remembers an app, so that shared tasks declared later reach it."""
    _apps.add(app)


def deregister_app(app: Celery) -> None:
    """Forgets an app that was closed."""
    _apps.discard(app)


def active_apps() -> set[Celery]:
    """The apps that are alive."""
    return set(_apps)


def connect_on_app_finalize(callback: Callable[[Celery], Any]) -> Callable[[Celery], Any]:
    """Calls `callback` with every app that is finalised from now on."""
    _on_finalize.append(callback)
    return callback


def announce_app_finalized(app: Celery) -> None:
    """Runs what waits for an app to be finalised."""
    for callback in tuple(_on_finalize):
        callback(app)


def set_default_app(app: Celery | None) -> None:
    """Makes `app` the one that threads without an app of their own use."""
    global _default_app
    _default_app = app


def is_without_default_app() -> bool:
    """Whether nobody has named the default app yet."""
    return _default_app is None


def get_default_app() -> Celery:
    """The default app; made on first use, on the embedded broker unless the environment names another (or is Celery's)."""
    if _default_app is None:
        with _default_lock:
            if _default_app is None:
                # By name: this is the one place where a lower layer needs the app's class.
                celery = import_module("celeriac.app.base").Celery
                set_default_app(celery(set_as_current=False))
    assert _default_app is not None
    return _default_app


def set_current_app(app: Celery | None) -> None:
    """Makes `app` current in this thread."""
    _local.app = app


def get_current_app() -> Celery:
    """This thread's app, else the default app."""
    return getattr(_local, "app", None) or get_default_app()


def app_or_default(app: Celery | None = None) -> Celery:
    """The given app, else the current one."""
    return get_current_app() if app is None else app


def push_current_task(task: Task[..., Any]) -> None:
    """A task begins to run here."""
    current_tasks.set((*current_tasks.get(), task))


def pop_current_task() -> None:
    """It has ended."""
    current_tasks.set(current_tasks.get()[:-1])


def get_current_task() -> Task[..., Any] | None:
    """The task that runs here."""
    stack: tuple[Task[..., Any], ...] = current_tasks.get()
    return stack[-1] if stack else None


def get_current_worker_task() -> Task[..., Any] | None:
    """The task that a worker (or an eager call) runs here; tasks that were simply called do not count."""
    stack = current_tasks.get()
    if not stack:
        return None
    return next((task for task in reversed(stack) if not task.request.called_directly), None)


def task_join_will_block() -> bool:
    """Whether waiting for a result here could starve the workers."""
    allowed = _join_allowed.get()
    if allowed is not None:
        return not allowed
    return bool(current_tasks.get()) and get_current_worker_task() is not None


def assert_will_not_block() -> None:
    """Refuses to wait for a result inside a task.

    Raises:
        RuntimeError: A task runs here, and it did not say that it wants to wait.
    """
    if task_join_will_block():
        raise RuntimeError(
            "Never call result.get() within a task: it would wait for a worker while occupying one. Use a chain, "
            "or get(disable_sync_subtasks=False) where you know that another worker is free."
        )


def _set_task_join_will_block(blocks: bool) -> None:
    """Says whether waiting for a result would block here; tests of projects call it."""
    _join_allowed.set(not blocks)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Allows to wait for results inside a task."""
    token = _join_allowed.set(True)
    try:
        yield
    finally:
        _join_allowed.reset(token)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Forbids to wait for results."""
    token = _join_allowed.set(False)
    try:
        yield
    finally:
        _join_allowed.reset(token)


class _TaskStack:
    """The stack of running tasks as an object: libraries that run tasks by themselves push and pop here."""

    @staticmethod
    def push(task: Task[..., Any]) -> None:
        """A task begins."""
        push_current_task(task)

    @staticmethod
    def pop() -> Any:
        """The innermost one ends."""
        task = get_current_task()
        pop_current_task()
        return task

    @property
    def top(self) -> Any:
        """The innermost one."""
        return get_current_task()

    @property
    def stack(self) -> list[Any]:
        """All of them, the innermost last."""
        return list(current_tasks.get())

    def __len__(self) -> int:
        return len(current_tasks.get())


_task_stack = _TaskStack()
_get_active_apps = active_apps
_set_current_app = set_current_app

current_app: Celery = Proxy(get_current_app)  # type: ignore[assignment]
current_task: Task[..., Any] = Proxy(get_current_task)  # type: ignore[assignment]
default_app: Celery = Proxy(get_default_app)  # type: ignore[assignment]
