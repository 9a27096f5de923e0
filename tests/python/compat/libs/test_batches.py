"""celery-batches: calls are gathered and handed to the task together."""

from __future__ import annotations

from .sides import HERE, Side


def test_calls_are_gathered_by_count_and_by_time(side: Side) -> None:
    side.worker("batches_app", "-P", "threads", "-c", "10")

    saw = side.run(str(HERE / "batches_client.py"))

    assert saw["by count"] == [5, 5]
    assert saw["results"] == list(range(1, 11))
    assert saw["by time"] == ["0", "1", "2"]
    assert saw["failed"] == ["0,1"]
    assert saw["plain"] == 3
