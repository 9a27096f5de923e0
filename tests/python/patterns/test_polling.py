"""`examples/patterns/polling.py`."""

from __future__ import annotations

from .conftest import Pattern


def test_a_client_polls_where_the_answer_says_and_unknown_ids_are_not_found(pattern: Pattern) -> None:
    output = pattern.example("polling", "-c", "1").splitlines()

    assert output[0] == "POST /reports: 202"
    assert output[1].startswith("asked ")
    assert output[1].endswith("progress was seen")
    assert output[2:] == ["result: SUCCESS {'pages': 5}", "unknown id: 404"]
