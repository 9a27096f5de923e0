"""`examples/patterns/job_queue.py`."""

from __future__ import annotations

from .conftest import Pattern


def test_jobs_are_retried_cut_short_and_ordered(pattern: Pattern) -> None:
    output = pattern.example("job_queue", "-c", "1")

    assert output.splitlines() == [
        "recovering: answered at attempt 3",
        "slow: too long, tidied up",
        "hopeless: FAILURE attempt 4 failed",
        "order: urgent urgent urgent later later later",
    ]
