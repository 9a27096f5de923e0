"""Workflows between every client and every worker: each gives what it gives between two Celerys.

INTEROP_NESTINGS=300 tries more random nestings than a run of the whole suite does.
"""

from __future__ import annotations

import os

import pytest

from ..servers.shared import Shared
from .battery import Play, rabbitmq_place, redis_place
from .checks import PAIRINGS, Reference, check

PLAY = Play(
    app="interop_canvas_app",
    cases="interop_canvas",
    environment={"INTEROP_NESTINGS": os.environ.get("INTEROP_NESTINGS", "40")},
)


@pytest.fixture(scope="module")
def on_redis(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(lambda: redis_place(shared), tmp_path_factory.mktemp("redis"), PLAY)


@pytest.fixture(scope="module")
def on_rabbitmq(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(lambda: rabbitmq_place(shared), tmp_path_factory.mktemp("rabbitmq"), PLAY)


@pytest.mark.parametrize(("client", "worker"), PAIRINGS)
def test_a_workflow_on_redis_gives_what_celery_makes_of_it(
    on_redis: Reference, subtests: pytest.Subtests, client: str, worker: str
) -> None:
    check(on_redis, subtests, client, worker)


@pytest.mark.parametrize(("client", "worker"), [("celery", "celeriac"), ("celeriac", "celery")])
def test_a_workflow_on_rabbitmq_gives_what_celery_makes_of_it(
    on_rabbitmq: Reference, subtests: pytest.Subtests, client: str, worker: str
) -> None:
    check(on_rabbitmq, subtests, client, worker)
