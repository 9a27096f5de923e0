"""A Flask application as Flask's documentation shows it for Celery."""

from __future__ import annotations

from collections.abc import Callable

from .sides import HERE, Side

SITE = HERE / "flask_site"


def test_tasks_run_in_the_applications_context(make_side: Callable[..., Side]) -> None:
    side = make_side(FLASK_GREETING="good morning")
    side.environment["PYTHONPATH"] = f"{SITE}:{side.environment['PYTHONPATH']}"
    side.worker("make_celery", "-c", "1")

    saw = side.run(str(SITE / "flask_client.py"))

    assert saw == {
        "add": {"ready": True, "successful": True, "value": 42},
        "greet": {"ready": True, "successful": True, "value": "good morning, Ada"},
    }
