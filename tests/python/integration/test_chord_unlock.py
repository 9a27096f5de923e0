"""Chords that are joined by a task that looks at their header, as Celery's clients with other result backends ask for."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import chord
from celeriac.canvas import unlock
from celeriac.canvas.composition import Composition
from celeriac.exceptions import ChordError

TASKS = """
    @app.task(name="add")
    def add(x, y):
        return x + y

    @app.task(name="total")
    def total(numbers):
        return sum(numbers)

    @app.task(name="boom")
    def boom():
        raise ValueError("bad value")

    @app.task(name="errback")
    def errback(request, exc, traceback):
        mark("errback", f"{request.id} {exc}")
    """


@pytest.fixture
def send(project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    project.write(TASKS, result_chord_retry_interval=0.05)
    project.start("-c", "2")
    app = project.client
    # As a backend that does not count would: the parts of these chords are nobody's.
    monkeypatch.setattr(Composition, "counts_chords", lambda self: False)
    monkeypatch.setattr(unlock.Looks.__new__, "__defaults__", (0.05, 0.05, None))

    def sign(name: str, *args: Any) -> Any:
        return app.signature(name, args=args)

    def send_chord(*header: Any) -> Any:
        body = sign("total").on_error(sign("errback"))
        return chord([sign(*member) for member in header], body, app=app).apply_async()

    return send_chord


def test_a_header_that_is_done_gives_its_results_to_the_body(send: Any) -> None:
    result = send(("add", 1, 1), ("add", 2, 2))

    assert result.get(timeout=30) == 6


def test_a_header_that_has_failed_ends_the_body(send: Any, project: Any) -> None:
    result = send(("add", 1, 1), ("boom",))

    with pytest.raises(ChordError, match=r"Dependency .* raised ValueError\('bad value'\)"):
        result.get(timeout=30, follow_parents=False)
    assert result.id in project.wait_for_mark("errback")
