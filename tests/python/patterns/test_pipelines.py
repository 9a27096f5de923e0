"""Runs the example of pipelines."""

from __future__ import annotations

from .conftest import Pattern


def test_an_order_goes_through_four_steps_and_a_failed_one_is_told_of(pattern: Pattern) -> None:
    output = pattern.example("pipelines", "-c", "2")

    lines = output.splitlines()
    assert "paid: order 17: 170 paid" in lines
    assert "not paid: 170 is over the limit of 100" in lines
    assert (pattern.folder / "failed.txt").read_text() == "pipelines.charge: 170 is over the limit of 100\n"
    done = [int(line.split()[0]) for line in lines if "steps done" in line]
    assert done
    # The one order after the other.
    assert all(1 <= number <= 4 for number in done)
