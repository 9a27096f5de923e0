"""Messages of workflows against those that Celery sent."""

from __future__ import annotations

from typing import Any

import pytest

import celeriac
from celeriac import Celery
from celeriac.canvas import StampingVisitor

from .messages import Outbox, neutral, recorded_messages

CASES = [
    "chain_3",
    "chain_group_upgrade",
    "chain_link",
    "chain_nested",
    "chain_options",
    "chord_3",
    "chord_body_chain",
    "chord_empty",
    "chord_header_link_error",
    "chord_link_error",
    "chord_nested",
    "chord_of_groups",
    "chord_one",
    "chunks",
    "group_3",
    "group_nested",
    "group_of_chains",
    "group_pipe_task",
    "group_then_group",
    "map",
    "stamp_group",
    "stamp_keyword",
    "stamp_visitor",
    "starmap",
]


class Stamper(StampingVisitor):
    def on_signature(self, sig, **headers):
        return {"trace": "abc", "stamped_headers": ["trace"]}


def run(source: str, app: Celery, tasks: Any) -> None:
    @app.task(name="demo.total")
    def total(numbers):
        return sum(numbers)

    names = {name: getattr(celeriac, name) for name in ("chain", "chord", "group", "chunks")}
    exec(source, {**names, **vars(tasks), "app": app, "total": total, "Stamper": Stamper})


@pytest.mark.parametrize("case", CASES)
def test_a_workflow_is_sent_as_celery_sends_it(case: str, golden, register, outbox: Outbox) -> None:
    recorded = golden(f"redis_messages/{case}")
    app = Celery("capture", broker="sqlite:///unused.db", backend="sqlite:///unused.db", **recorded["settings"])

    run(recorded["call"], app, register(app))

    ours, theirs = outbox.messages(), recorded_messages(recorded)
    assert [list(one["headers"]) for one in ours] == [list(one["headers"]) for one in theirs]
    assert neutral(ours) == neutral(theirs)
    sizes = {
        key.removeprefix("celery-taskset-meta-").removesuffix(".s"): int(found["value"])
        for key, found in recorded["result_backend_keys"].items()
        if key.endswith(".s")
    }
    assert sorted(size for _, size in outbox.chords) == sorted(sizes.values())
