"""What the engine writes and reads at once is what is written and read step by step."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import threading
import uuid as standard
from typing import Any

import pytest

from celeriac._core import json_dumps, json_record, uuids
from celeriac.exceptions import EncodeError
from celeriac.serialization import json as own_json
from celeriac.utils import uuid

VALUES: list[Any] = [
    None,
    5,
    "\u00e4\u20ac\U0001f600",
    [1, (2,)],
    {"a": {"b": None}},
    dt.date(2026, 1, 2),
    b"raw",
    1e300,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("group", [None, "", "g1"])
@pytest.mark.parametrize("parent", [None, "p1"])
@pytest.mark.parametrize("children", [None, [], [(("id", None), None)]])
def test_a_record_is_the_encoded_document(value: Any, group: Any, parent: Any, children: Any) -> None:
    done, text = "2026-11-21T20:00:00+00:00", 'Traceback:\n  "x"'
    document = {"status": "MINE", "result": value, "traceback": text, "children": children, "date_done": done}
    document |= {"group_id": group} if group else {}
    document |= {"parent_id": parent} if parent else {}
    document["task_id"] = "t1"

    made = json_record("t1", "MINE", value, text, children, done, group, parent, 5000, own_json.default)
    assert made.record == json_dumps(document, own_json.default)
    assert (made.task_id, made.state, made.content_type) == ("t1", "MINE", "application/json")


def test_a_record_says_when_it_was_made_as_python_writes_dates() -> None:
    before = dt.datetime.now(dt.UTC)
    texts = [
        json.loads(json_record("t", "SUCCESS", 1, None, [], True, None, None, None, own_json.default).record)[
            "date_done"
        ]
        for _ in range(200)
    ]
    after = dt.datetime.now(dt.UTC)
    for text in texts:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00", text)
        moment = dt.datetime.fromisoformat(text)
        assert before <= moment <= after
        assert moment.isoformat() == text
    assert len(set(texts)) > 1


def test_a_record_of_what_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(EncodeError, match="object"):
        json_record("t", "SUCCESS", object(), None, [], True, None, None, None, own_json.default)


def test_random_bytes_become_uuids_of_version_4() -> None:
    for at in range(16):
        for byte in (0x00, 0x5A, 0xFF):
            random = bytes(byte if place == at else 0xA5 for place in range(16))
            assert uuids(random) == [str(standard.UUID(bytes=random, version=4))]
    assert len(uuids(os.urandom(16 * 5 + 3))) == 5


def test_ids_are_never_given_twice() -> None:
    found: list[str] = []

    def take() -> None:
        found.extend([uuid() for _ in range(3000)])

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12_000
    assert len(set(found)) == len(found)
    assert all(str(standard.UUID(one)) == one and standard.UUID(one).version == 4 for one in found)
