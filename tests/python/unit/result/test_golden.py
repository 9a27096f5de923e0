"""Records and groups as Celery has written them are read, and groups are written byte for byte the same."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery
from celeriac._core import ResultRecord
from celeriac.result import AsyncResult, GroupResult, result_from_tuple

GOLDEN = Path(__file__).parents[3] / "golden"
FOLDERS = ("redis_results", "redis_results_extended", "redis_results_compressed", "redis_results_protocol_1")
TASK, GROUP = "celery-task-meta-", "celery-taskset-meta-"


def cases() -> Iterator[Any]:
    for folder in FOLDERS:
        for path in sorted((GOLDEN / folder).glob("[!_]*.json")):
            case = json.loads(path.read_text())
            if case["keys"]:
                yield pytest.param(case, id=case["case"])


def stored(case: dict[str, Any], prefix: str) -> dict[str, bytes]:
    """What is under keys of that kind, by id."""
    found = {}
    for key, entry in case["keys"].items():
        if key.startswith(prefix) and "." not in key and entry["type"] == "string":
            value = entry["value"]
            data = value.encode() if isinstance(value, str) else base64.b64decode(value["base64"])
            found[key.removeprefix(prefix)] = data
    return found


@pytest.mark.parametrize("case", list(cases()))
def test_what_celery_stored_is_read(app: Celery, case: dict[str, Any]) -> None:
    records = stored(case, TASK)
    states = {task_id: case["decoded"].get(TASK + task_id, {"status": "SUCCESS"})["status"] for task_id in records}
    app.client.store(
        [ResultRecord(task_id, states[task_id], data, "application/json") for task_id, data in records.items()]
    )

    for task_id, state in states.items():
        result = AsyncResult(task_id, app=app)
        assert result.state == state
        document = case["decoded"].get(TASK + task_id)
        if document is not None and document.get("children") is not None:
            assert [child.as_tuple() for child in result.children or ()] == [tuples(c) for c in document["children"]]
        if state in {"FAILURE", "REVOKED"}:
            assert isinstance(result.result, BaseException)


def tuples(value: Any) -> Any:
    """`((id, parent), children)` with the brackets that it has in Python."""
    (task_id, parent), children = value
    members = None if children is None else [tuples(child) for child in children]
    return (task_id, None if parent is None else tuples(parent)), members


@pytest.mark.parametrize("name", ["redis_results/group", "redis_results_extended/group"])
def test_a_group_that_celery_saved_is_restored_and_saved_the_same(app: Celery, name: str) -> None:
    ((group_id, data),) = stored(json.loads((GOLDEN / f"{name}.json").read_text()), GROUP).items()
    app.client.save_group(group_id, data, "application/json")

    group = GroupResult.restore(group_id, app=app)

    assert group.id == group_id
    assert len(group) > 1
    assert all(isinstance(member, AsyncResult) for member in group)
    app.client.forget_group(group_id)
    group.save()
    assert app.client.read_group(group_id) == (data, "application/json")


def test_a_returned_result_is_a_result_again(app: Celery) -> None:
    case = json.loads((GOLDEN / "redis_results/success_result_value.json").read_text())
    value = case["decoded"][TASK + case["task_id"]]["result"]

    assert result_from_tuple(value, app) in {key.removeprefix(TASK) for key in case["keys"]}
