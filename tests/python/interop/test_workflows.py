"""Workflows between every client and every worker: each gives what it gives between two Celerys.

INTEROP_NESTINGS=300 tries more random nestings than a run of the whole suite does.
"""

from __future__ import annotations

import os

import pytest

from ..servers.shared import Shared
from .battery import Play, rabbitmq_place, redis_place
from .checks import PAIRINGS, Reference, check

_WITH_CHORDS = ".*(chord|group|nesting|chunks|replaced|map).*"

PLAY = Play(
    app="interop_canvas_app",
    cases="interop_canvas",
    environment={"INTEROP_NESTINGS": os.environ.get("INTEROP_NESTINGS", "40")},
    meant=(
        (_WITH_CHORDS, ".*", ".*", r"/records/\d+/parent_id: .*", "any part may be the one that completes a chord"),
        (
            _WITH_CHORDS,
            "celeriac",
            ".*",
            r'/records/\d+/(group_id|children/.*): expected "<uuid>", seen "<id \d+>"',
            "ids that were told to the client are those that are sent; Celery makes new ones when it clones a header",
        ),
        (
            ".*chord.*",
            ".*",
            "celeriac|served",
            r"/records/\d+/traceback: expected null, seen .*ChordError.*",
            "the record of a chord's body says what went wrong",
        ),
        (
            ".*(breaks|errback|fail|never runs).*",
            ".*",
            "celeriac|served",
            r"/records/\d+/(args|kwargs|name|queue|retries|worker): .*",
            "the extended record of a task that never ran has its name and no arguments; Celery's has either, or nothing",
        ),
        (
            "chord that grows",
            ".*",
            ".*",
            r"/records/\d+/args/0/\d: .*",
            "of two parts in one place the ids say which is first",
        ),
    ),
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
