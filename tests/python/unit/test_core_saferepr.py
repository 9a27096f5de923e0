"""`celeriac._core.saferepr` against recorded texts."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from celeriac._core import saferepr

GOLDEN = Path(__file__).parents[2] / "golden"
ROWS = json.loads((GOLDEN / "offline" / "reprs.json").read_text())["rows"]

# Rows whose recorded source text was itself cut: the values they were made of.
LONG: dict[str, Any] = {
    "('xxx": ("x" * 2000,),
    "(0, 1": tuple(range(500)),
    "(('xx": (("x" * 600, "y" * 600),),
}


def value_of(source: str) -> Any:
    if len(source) == 200:
        return LONG[source[:5]]
    return eval(source, {"datetime": datetime, "Decimal": Decimal, "UUID": UUID})


def test_there_are_recorded_texts() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["python"][:30])
def test_texts_are_as_recorded(row: dict[str, Any]) -> None:
    assert saferepr(value_of(row["python"])) == row["argsrepr"]


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        ((1, 2, 3), 0, ", ..."),
        ((1, 2, 3), 1, "(, ...)"),
        ((1, 2, 3), 2, "(1..., ...)"),
        (((1, 2), [3, 4]), 6, "((1, 2...), ...)"),
        (((1, 2), [3, 4]), 10, "((1, 2), [, ...])"),
        ({"a": {"b": [1]}}, 8, "{'a': {'b...', ...}}"),
        (("abc def ghi",), 8, "('abc...',)"),
        (frozenset({1}), 2, "frozenset({, ...})"),
    ],
)
def test_texts_are_cut_at_a_length(value: Any, limit: int, text: str) -> None:
    assert saferepr(value, limit) == text


def test_a_container_in_itself_is_named() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert saferepr(value) == f"[1, <Recursion on list with id={id(value)}>]"


def test_a_failing_repr_is_told_and_not_raised() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no")

    text = saferepr((Broken(),))
    assert text.startswith("(<Unrepresentable ")
    assert "no" in text


def test_without_a_depth_limit_deep_values_do_not_exhaust_the_stack() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert saferepr(value, 1_000_000, 0).startswith("[[[")
