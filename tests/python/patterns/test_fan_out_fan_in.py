"""Runs the example of fan-out and fan-in."""

from __future__ import annotations

from .conftest import Pattern


def test_parts_are_added_up_once_and_a_failed_part_ends_the_whole_unless_it_is_borne(pattern: Pattern) -> None:
    output = pattern.example("fan_out_fan_in", "-c", "2")

    lines = output.splitlines()
    assert "this page cannot be read" in lines.pop(1)
    assert lines == [
        "red: 40 of 40 pages",
        "borne: 40",
        "gathered: 40 results, done: 40",
    ]
