"""Runs the example of batches."""

from __future__ import annotations

import re

from .conftest import Pattern


def test_five_hundred_readings_are_written_in_few_transactions_and_bad_ones_are_told_apart(pattern: Pattern) -> None:
    output = pattern.example("batches", "-c", "1")

    assert "ValueError('900.0 degrees')" in output
    assert "no value" in output
    found = re.search(r"(\d+) readings in (\d+) writes", output)
    assert found is not None, output
    rows, writes = map(int, found.groups())
    assert rows == 500
    # Of the last one the bad readings are told of before it is written.
    assert 5 <= writes <= 12, output


def test_two_processes_share_the_work(pattern: Pattern) -> None:
    assert "500 readings" in pattern.example("batches", "-c", "2")
