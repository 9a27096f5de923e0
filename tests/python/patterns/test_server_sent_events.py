"""`examples/patterns/server_sent_events.py`."""

from __future__ import annotations

from .conftest import Pattern


def test_one_stream_follows_several_tasks_and_a_lost_connection_goes_on(pattern: Pattern) -> None:
    output = pattern.example("server_sent_events", "-c", "2").splitlines()

    assert output == [
        "first connection: message",
        "second connection: ['long converted', 'short converted'] and progress",
        "last event: end",
        "third connection: []",
    ]
