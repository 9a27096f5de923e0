"""`examples/patterns/pub_sub.py`."""

from __future__ import annotations

from .conftest import Pattern


def test_whoever_listens_hears_it(pattern: Pattern) -> None:
    output = pattern.example("pub_sub", "-c", "1")

    assert output.splitlines() == [
        "all: price.acme 10, price.acme 11, price.other 7",
        "acme: price.acme 10, price.acme 11",
        "missed: 0",
        "async: price.acme 12, price.acme 13",
    ]
