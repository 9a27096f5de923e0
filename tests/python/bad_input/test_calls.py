"""Arguments and results that cannot travel: an error where the mistake is, and the worker goes on."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import Celery
from celeriac.exceptions import EncodeError, OperationalError

from .conftest import SECRET


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_arguments_that_do_not_fit_are_a_failure_of_that_task(bench: Any) -> None:
    bench.start()
    result = bench.project.send("add", SECRET)

    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        result.get(timeout=30)
    bench.works()


def test_a_result_that_cannot_be_encoded_is_a_failure_of_that_task(bench: Any) -> None:
    bench.start()
    result = bench.project.send("unspeakable")

    with pytest.raises(EncodeError, match="Unspeakable"):
        result.get(timeout=30)
    bench.works()


def test_a_result_over_the_limit_is_a_failure_of_that_task(bench: Any) -> None:
    bench.start(result_max_bytes=1_000)
    result = bench.project.send("large", 5_000)

    with pytest.raises(Exception, match="result_max_bytes allows 1000"):
        result.get(timeout=30)
    assert result.state == "FAILURE"
    assert bench.project.send("large", 10).get(timeout=30) == "x" * 10
    bench.works()


def test_a_deep_result_is_a_failure_of_that_task(bench: Any) -> None:
    bench.start()
    result = bench.project.send("deep", 10_000)

    with pytest.raises(EncodeError, match="deep"):
        result.get(timeout=30)
    bench.works()


def test_deep_arguments_are_refused_at_the_call(bench: Any) -> None:
    bench.start()

    with pytest.raises(EncodeError, match="deep"):
        bench.project.send("add", nested(10_000), 1)
    bench.works()
    assert bench.dead == []


def test_an_oversized_message_is_refused_at_the_call(bench: Any) -> None:
    bench.start()
    url = f"{bench.project.url}?max_message=10000"
    client = Celery("small", broker=url, backend=url, set_as_current=False)

    with pytest.raises(OperationalError, match="10000"):
        client.send_task("add", ("x" * 20_000, 1), retry=False)
    assert client.send_task("add", (1, 1)).get(timeout=30) == 2
    client.close()
    bench.works()
    assert bench.dead == []
