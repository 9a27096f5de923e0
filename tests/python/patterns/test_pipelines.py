"""Runs the example of pipelines."""

from __future__ import annotations

from .conftest import Pattern, wait_until


def test_an_order_goes_through_four_steps_and_a_failed_one_is_told_of(pattern: Pattern) -> None:
    output = pattern.example("pipelines", "-c", "2")

    done = [f"step {number} of 4 done" for number in (1, 2, 3, 4)]
    assert output.splitlines() == [
        *done,
        "paid: order 17: 170 paid",
        *done[:2],
        "not paid: 170 is over the limit of 100",
    ]
    failed = pattern.folder / "failed.txt"
    wait_until(failed.exists, "the error link has run")
    assert failed.read_text() == "pipelines.charge: 170 is over the limit of 100\n"
