"""`examples/patterns/webhooks.py`."""

from __future__ import annotations

from .conftest import Pattern


def test_a_service_is_told_of_ends_and_refuses_forgeries(pattern: Pattern) -> None:
    output = pattern.example("webhooks", "-c", "1").splitlines()

    assert output[:3] == [
        "told: task.succeeded {'pages': 12}",
        "told: task.failed there is nothing to render",
        "refused: the header webhook-id is missing",
    ]
    assert output[3].startswith("forged: POST http://127.0.0.1:")
    assert output[3].endswith("/... answered 400 Bad Request")
    assert output[4:] == ["calls: 4 told of: 2"]
