"""Groups that one library saves and the other restores, on Redis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from ..servers.shared import Shared
from .battery import Side, redis_place

DAY = 24 * 3600


@pytest.mark.parametrize(("saves", "restores"), [("celeriac", "celery"), ("celery", "celeriac")])
def test_a_group_that_one_saves_the_other_restores(shared: Shared, tmp_path: Path, saves: str, restores: str) -> None:
    place = redis_place(shared)
    worker = Side(saves, place, tmp_path).worker("-c", "2")
    try:
        saved = Side(saves, place, tmp_path).client("save", script="interop_groups.py")
        with redis.Redis.from_url(place.backend) as store:
            stored = json.loads(store.get("celery-taskset-meta-saved"))
            seconds = store.ttl("celery-taskset-meta-saved")
        seen = Side(restores, place, tmp_path).client("restore", script="interop_groups.py")
    finally:
        worker.stop(hard=True)

    one, two, three, four = saved["ids"]
    inner = [["inner", None], [[[three, None], None], [[four, None], None]]]
    assert stored == {
        "result": [["saved", [["before", None], None]], [[[one, None], None], [[two, None], None], inner]]
    }
    assert DAY - 60 < seconds <= DAY
    assert seen == {
        "id": "saved",
        "parent": "before",
        "kinds": ["AsyncResult", "AsyncResult", "GroupResult"],
        "inner": "inner",
        "ids": saved["ids"],
        "values": [10, 11, [12, 13]],
        "ready": True,
        "successful": True,
        "completed": 3,
        "left": None,
    }
