"""`examples/patterns/event_emitters.py`."""

from __future__ import annotations

from .conftest import Pattern

EXPECTED = [
    "order.created, send_mail: SUCCESS: a mail about order 7: order.created",
    "order.created, reserve_stock: SUCCESS: 3 reserved at attempt 3",
    "order.created, print_label: FAILURE: no address for order 7",
    "order.paid, send_mail: SUCCESS: a mail about order 7: order.paid",
]


def test_each_handler_is_a_task_of_its_own(pattern: Pattern) -> None:
    output = pattern.example("event_emitters", "-c", "2")

    assert output.splitlines() == EXPECTED
