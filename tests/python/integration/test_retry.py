"""Retries, by hand and automatic."""

from __future__ import annotations

from typing import Any

import pytest

TASKS = """
    @app.task(name="third_time", bind=True, max_retries=3)
    def third_time(self):
        mark("tries")
        if self.request.retries < 2:
            raise self.retry(exc=ValueError("not yet"), countdown=0)
        return self.request.retries

    @app.task(name="later", bind=True)
    def later(self):
        raise self.retry(exc=ValueError("again"), countdown=3600)

    @app.task(name="never", bind=True, max_retries=2)
    def never(self):
        mark("never")
        raise self.retry(exc=ValueError("final"), countdown=0)

    @app.task(name="auto", autoretry_for=(KeyError,), max_retries=2, default_retry_delay=0)
    def auto():
        mark("auto")
        raise KeyError("flaky")
    """


@pytest.fixture
def worker(project: Any) -> Any:
    project.write(TASKS)
    return project.start("-c", "1")


def test_a_task_is_tried_again_under_its_id(project: Any, worker: Any) -> None:
    assert project.send("third_time").get(timeout=30) == 2
    assert project.marks("tries") == "xxx"
    worker.wait_for(r"Task third_time\[.*\] retry: Retry in 0s: ValueError\('not yet'\)", count=2)


def test_a_retry_in_the_future_waits_in_the_store(project: Any, worker: Any) -> None:
    result = project.send("later")

    worker.wait_for(rf"later\[{result.id}\] retry")
    assert worker.stop() == 0

    assert result.state == "RETRY"
    assert project.queue()["parked"] == 1


def test_the_exception_is_raised_when_tries_are_exhausted(project: Any, worker: Any) -> None:
    with pytest.raises(ValueError, match="final"):
        project.send("never").get(timeout=30)
    assert project.marks("never") == "xxx"


def test_listed_exceptions_are_retried_automatically(project: Any, worker: Any) -> None:
    with pytest.raises(KeyError, match="flaky"):
        project.send("auto").get(timeout=30)
    assert project.marks("auto") == "xxx"
