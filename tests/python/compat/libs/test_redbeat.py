"""celery-redbeat: a schedule in Redis, changed while beat runs, and one beat at a time."""

from __future__ import annotations

import redis

from .sides import HERE, Side


def test_entries_in_redis_are_sent_and_one_beat_takes_over_from_another(side: Side) -> None:
    side.worker("redbeat_app", "-c", "1")
    options = ("-A", "redbeat_app", "beat", "-l", "DEBUG")
    first = side.start("first", side.celery(*options))
    first.says("beat: Acquired lock")
    second = side.start("second", side.celery(*options))
    second.says("beat: Acquiring lock")

    saw = side.run(str(HERE / "redbeat_client.py"))

    assert saw["entry"] == ["dynamic", "redbeat_app.note", ["dynamic"], 1.0, True]
    assert saw["ran"] is True
    assert saw["crontab"] == [True, 1]
    assert saw["keys"] == ["redbeat::lock", "redbeat::schedule", "redbeat::statics", "redbeat:static", "redbeat:yearly"]
    assert saw["scheduled"] == ["redbeat:static", "redbeat:yearly"]
    assert saw["statics"] == ["static"]
    assert "beat: Acquired lock" not in second.log
    first.stop()
    assert "beat: Releasing lock" in first.log
    second.says("beat: Acquired lock")
    store = redis.Redis.from_url(side.environment["LIBS_BROKER"])
    assert int(store.hget("notes", "static")) >= 2
