"""An app whose store is in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery
from celeriac.result.record import build_record


@pytest.fixture
def app(tmp_path: Path) -> Any:
    # A store in memory is shared by all that name it, as a server would be.
    url = f"memory://{tmp_path.name}"
    with Celery("unit", broker=url, backend=url) as app:
        yield app


@pytest.fixture
def done(app: Celery) -> Callable[..., None]:
    """Stores what tasks returned, or the exceptions that they raised, in one batch and in this order."""

    def store(**results: Any) -> None:
        failed = {name: "FAILURE" for name, value in results.items() if isinstance(value, BaseException)}
        app.client.store(
            [build_record(app, name, failed.get(name, "SUCCESS"), value) for name, value in results.items()]
        )

    return store
