"""Fixtures of the fault tests: a fleet on a store of its own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A store in a temporary folder; every worker started on it is gone afterwards."""
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


@pytest.fixture
def fault_app(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """The application as a client sees it, bound to the fleet's store."""
    monkeypatch.setenv("FAULT_STORE", fleet.store)
    monkeypatch.setenv("FAULT_LOG", str(fleet.log))
    sys.modules.pop("fault_app", None)
    module = importlib.import_module("fault_app")
    yield module
    module.app.close()
    os.close(module._log)
    sys.modules.pop("fault_app", None)
