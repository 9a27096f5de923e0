"""Fixtures of the fault tests: fleets, and clients of them."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fleet import Fleet
from load import Load

from ..servers.shared import Shared


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A store in a temporary folder; every worker started on it is gone afterwards."""
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


@pytest.fixture
def places(shared: Shared, request: pytest.FixtureRequest) -> tuple[str, str]:
    """Broker and backend, by the parameter's name."""
    broker = shared.redis() if request.param == "redis" else shared.rabbitmq()
    return broker, broker if request.param == "redis" else shared.redis()


@pytest.fixture
def server_fleet(tmp_path: Path, places: tuple[str, str]) -> Iterator[Fleet]:
    """A fleet on the shared servers, by the parameter `places`."""
    fleet = Fleet(tmp_path, *places)
    yield fleet
    fleet.close()


@pytest.fixture
def new_fleet(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Makes fleets on servers of the test."""
    made: list[Fleet] = []

    def make(*places: str, **settings: Any) -> Fleet:
        made.append(Fleet(tmp_path, *places, **settings))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


@pytest.fixture
def client_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """The application as a client sees it, bound to a fleet's places."""
    modules: list[ModuleType] = []

    def bind(fleet: Fleet, **places: str) -> ModuleType:
        for name, value in {**fleet.variables("celeriac"), **places}.items():
            monkeypatch.setenv(name, value)
        sys.modules.pop("fault_app", None)
        modules.append(importlib.import_module("fault_app"))
        return modules[-1]

    yield bind
    for module in modules:
        module.app.close()
        os.close(module._log)
    sys.modules.pop("fault_app", None)


@pytest.fixture
def fault_app(fleet: Fleet, client_of: Callable[..., ModuleType]) -> ModuleType:
    """The client of the fleet on a file."""
    return client_of(fleet)


@pytest.fixture
def load() -> type[Load]:
    """Many tasks under way."""
    return Load
