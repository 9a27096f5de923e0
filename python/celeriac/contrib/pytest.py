"""Fixtures for pytest: an app, and a worker in the test's own process. `-p celeriac.contrib.pytest` loads them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.contrib.testing.worker import TestWorkController

NO_WORKER = os.environ.get("NO_WORKER")


def pytest_configure(config: pytest.Config) -> None:
    """Declares the mark."""
    config.addinivalue_line("markers", "celery(**overrides): settings of the app for one test")


@contextmanager
def _create_app(
    enable_logging: bool = False, use_trap: bool = False, parameters: Mapping[str, Any] | None = None, **config: Any
) -> Iterator[Celery]:
    from celeriac.contrib.testing.app import TestApp, setup_default_app

    app = TestApp(set_as_current=False, enable_logging=enable_logging, config=config, **(parameters or {}))
    with setup_default_app(app, use_trap=use_trap):
        yield app


def _settings(request: pytest.FixtureRequest, config: Mapping[str, Any]) -> dict[str, Any]:
    mark = request.node.get_closest_marker("celery")
    return {**config, **(mark.kwargs if mark else {})}


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Override it to refuse uses of the current app."""
    return False


@pytest.fixture(scope="session")
def celery_session_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """An app for the whole session; the current one."""
    with _create_app(
        enable_logging=celery_enable_logging,
        use_trap=use_celery_app_trap,
        parameters=celery_parameters,
        **_settings(request, celery_config),
    ) as app:
        if not use_celery_app_trap:
            app.set_default()
            app.set_current()
        yield app


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: Celery,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[TestWorkController | None]:
    """A worker for the whole session, in a thread."""
    if NO_WORKER:
        yield None
        return
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    with _worker(celery_session_app, celery_includes, celery_worker_pool, celery_worker_parameters) as worker:
        yield worker


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Override it to let the worker set logging up."""
    return False


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Override it to name modules that are imported when a worker starts."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_pool() -> Any:
    """Override it to name a pool; tasks run in a thread of the test's process in any case."""
    return "solo"


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """Override it to give settings of the app."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """Override it to give arguments of the app."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """Override it to give arguments of the worker, such as `queues`."""
    return {}


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """An app for one test."""
    with _create_app(
        enable_logging=celery_enable_logging,
        use_trap=use_celery_app_trap,
        parameters=celery_parameters,
        **_settings(request, celery_config),
    ) as app:
        yield app


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Any]:
    """Override it to register tasks with the app of the session."""
    return []


@pytest.fixture
def celery_worker(
    celery_app: Celery,
    celery_includes: Sequence[str],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[TestWorkController | None]:
    """A worker for one test, in a thread."""
    if NO_WORKER:
        yield None
        return
    with _worker(celery_app, celery_includes, celery_worker_pool, celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Celery) -> None:
    """Makes the app the current one."""
    celery_app.set_current()


@contextmanager
def _worker(
    app: Celery, includes: Sequence[str], pool: Any, parameters: Mapping[str, Any]
) -> Iterator[TestWorkController]:
    from celeriac.contrib.testing.worker import start_worker

    for module in includes:
        app.loader.import_task_module(module)
    with start_worker(app, pool=pool, **parameters) as worker:
        yield worker
