"""An app whose messages go to an outbox."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import Celery
from celeriac.app import chords
from celeriac.result import GroupResult

from .messages import Outbox


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> Outbox:
    box = Outbox()
    monkeypatch.setattr(Celery, "client", box)
    monkeypatch.setattr(chords, "start_chord", box.start_chord)
    monkeypatch.setattr(GroupResult, "save", lambda group: box.save(group), raising=False)
    return box


@pytest.fixture
def tasks(register) -> Any:
    """Tasks of an app with a store for results."""
    app = Celery("workflows", broker="sqlite:///unused.db", backend="sqlite:///unused.db")

    @app.task(name="demo.total")
    def total(numbers):
        return sum(numbers)

    return register(app)
