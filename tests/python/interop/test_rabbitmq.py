"""RabbitMQ for queues, Redis for results: every client with every worker."""

from __future__ import annotations

import pytest

from ..servers.shared import Shared
from .battery import ON_RABBITMQ, rabbitmq_place
from .checks import PAIRINGS, Reference, check


@pytest.fixture(scope="module")
def reference(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(lambda: rabbitmq_place(shared), tmp_path_factory.mktemp("rabbitmq"), ON_RABBITMQ)


def test_every_case_works_between_two_celerys(reference: Reference) -> None:
    assert len(reference.cases()) > 100


@pytest.mark.parametrize(("client", "worker"), PAIRINGS)
def test_a_client_sees_what_celery_sees_of_celery(
    reference: Reference, subtests: pytest.Subtests, client: str, worker: str
) -> None:
    check(reference, subtests, client, worker)
