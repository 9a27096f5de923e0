"""Apps for tests."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from celeriac import _state
from celeriac.app.base import Celery
from celeriac.app.log import Logging

__all__ = ["DEFAULT_TEST_CONFIG", "TestApp", "Trap", "UnitLogging", "set_trap", "setup_default_app"]

#: Settings of a test app, unless the test says otherwise.
DEFAULT_TEST_CONFIG = {
    "worker_hijack_root_logger": False,
    "worker_log_color": False,
    "accept_content": {"json"},
    "enable_utc": True,
    "timezone": "UTC",
    "broker_url": "memory://",
    "result_backend": "cache+memory://",
    "broker_heartbeat": 0,
}


class Trap:
    """Stands where the current app would be; whoever uses it is told."""

    def __getattr__(self, name: str) -> Any:
        if name in {"_is_coroutine", "__func__"}:
            return None  # asked for by unittest.mock
        raise RuntimeError("Test depends on current_app")


class UnitLogging(Logging):
    """Leaves logging to the test."""

    @property
    def already_setup(self) -> bool:
        """Nothing is left to do."""
        return True


def TestApp(
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    enable_logging: bool = False,
    set_as_current: bool = False,
    log: Any = UnitLogging,
    backend: str | None = None,
    broker: str | None = None,
    **kwargs: Any,
) -> Celery:
    """An app for a test: in memory, unless told otherwise.

    Args:
        name: Its name.
        config: Settings.
        enable_logging: Let a worker of it set logging up.
        set_as_current: Make it the current app.
        log: Class of `app.log`.
        backend: URL of the result backend.
        broker: URL of the broker.
        **kwargs: As for `Celery`.
    """
    from celeriac.contrib.testing import tasks  # noqa: F401 -- declares `celery.ping`

    settings = {**deepcopy(DEFAULT_TEST_CONFIG), **(config or {})}
    if broker is not None:
        settings.pop("broker_url", None)
    if backend is not None:
        settings.pop("result_backend", None)
    app = Celery(
        name or "celery.tests",
        set_as_current=set_as_current,
        log=None if enable_logging else log,
        broker=broker,
        backend=backend,
        **kwargs,
    )
    app.add_defaults(settings)
    return app


# pytest takes it for a class of tests where a module imports it.
TestApp.__test__ = False  # type: ignore[attr-defined]


@contextmanager
def set_trap(app: Celery) -> Iterator[None]:
    """Whoever uses the current or the default app within the block gets an error.

    Args:
        app: Accepted for compatibility.
    """
    trap: Any = Trap()
    current, default = getattr(_state._local, "app", None), _state._default_app
    _state.set_default_app(trap)
    _state.set_current_app(trap)
    try:
        yield
    finally:
        _state.set_default_app(default)
        _state.set_current_app(current)


@contextmanager
def setup_default_app(app: Celery, use_trap: bool = False) -> Iterator[None]:
    """Leaves everything that apps share as it was, and closes `app` in the end.

    Args:
        app: The app of the test.
        use_trap: As `set_trap`.
    """
    current, default = getattr(_state._local, "app", None), _state._default_app
    finalizers, apps = list(_state._on_finalize), weakref.WeakSet(_state._apps)
    try:
        if use_trap:
            with set_trap(app):
                yield
        else:
            yield
    finally:
        _state.set_default_app(default)
        _state.set_current_app(current)
        _state._on_finalize[:] = finalizers
        if app is not current:
            app.close()
        _state._apps = apps
