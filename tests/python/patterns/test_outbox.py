"""`examples/patterns/outbox.py`."""

from __future__ import annotations

from .conftest import Pattern


def test_orders_and_their_tasks_are_committed_together(pattern: Pattern) -> None:
    output = pattern.example("outbox", "-c", "1", "--outbox", "sqlite:///shop.db")

    assert output.splitlines() == [
        "order 2 was rolled back: no money",
        "the process of order 3 ended with -9",
        "orders: {1: 'billed', 3: 'billed'}",
    ]
