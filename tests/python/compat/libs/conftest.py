"""A side for each scenario and each way in which celeriac takes part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .sides import KINDS, Side


@pytest.fixture(params=KINDS)
def side(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Side]:
    """Programs of the scenario, on an empty Redis."""
    made = Side(request.param, tmp_path, redis_url)
    yield made
    made.close()


@pytest.fixture(params=KINDS)
def make_side(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Side]]:
    """The same with environment variables."""
    made: list[Side] = []

    def make(**environment: str) -> Side:
        made.append(Side(request.param, tmp_path, redis_url, **environment))
        return made[-1]

    yield make
    for one in made:
        one.close()
