"""Parts of chords, and the end of a chord: what a child hands to its supervisor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celeriac.app.chords import counts_chords, grow_chord, start_chord
from celeriac.app.context import Context
from celeriac.worker.chords import find_body

from .conftest import Answer, Bench, document

GOLDEN = Path(__file__).parents[3] / "golden"
GROUP = "g-1"


def signature(task: str, task_id: str, **options: Any) -> dict[str, Any]:
    return {
        "task": task,
        "args": [],
        "kwargs": {},
        "options": {"task_id": task_id, **options},
        "subtask_type": None,
        "immutable": False,
    }


@pytest.fixture
def chords(bench: Bench) -> Bench:
    @bench.app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @bench.app.task(name="boom")
    def boom() -> None:
        raise ValueError("bad value", 42)

    @bench.app.task(name="old_errback")
    def old_errback(task_id: str) -> None: ...

    return bench


def member(index: int = 0, **headers: Any) -> dict[str, Any]:
    return {"id": f"t{index}", "group": GROUP, "group_index": index, "root_id": "root", **headers}


def run(bench: Bench, name: str, args: Any = (), *, body: Any = None, embed: Any = None, **more: Any) -> Answer:
    chord = signature("total", "body-1", group_id=GROUP) if body is None else body
    return bench.run(name, args, embed={"chord": chord, **(embed or {})}, headers=member(), **more)


def join(bench: Bench, elements: list[Any], *, body: Any = None, embed: Any = None, **chord: Any) -> Answer:
    encoded = [json.dumps(element).encode() for element in elements]
    given = (chord.get("group_id", GROUP), encoded, chord.get("group"), chord.get("broken"))
    return run(bench, "add", (1, 1), body=body, embed=embed, mode="join", chord=given)


def part(answer: Answer) -> dict[str, Any]:
    (found,) = answer.parts
    fields = ("group_id", "task_id", "group_index", "state", "element")
    return {name: getattr(found, name) for name in fields}


def test_a_success_is_a_part_with_its_value(chords: Bench) -> None:
    answer = run(chords, "add", (1, 1))
    assert part(answer) == {
        "group_id": GROUP,
        "task_id": "t0",
        "group_index": 0,
        "state": "SUCCESS",
        "element": b'[1, "t0", "SUCCESS", 2]',
    }
    assert answer.record["result"] == 2


def test_elements_are_written_as_celery_writes_them(chords: Bench) -> None:
    golden = json.loads((GOLDEN / "redis_results" / "chord_error.json").read_text())
    counted = [
        command["cmd"][-1] for command in golden["commands"] if command["by"] == "lua" and command["cmd"][0] == "ZADD"
    ]
    for element, answer in zip(counted, [run(chords, "add", (1, 1)), run(chords, "boom")], strict=True):
        written = part(answer)
        _, task_id, state, _ = json.loads(element)
        assert written["element"].decode() == element.replace(task_id, "t0")
        assert written["state"] == state


def test_a_task_without_a_chord_makes_no_part(chords: Bench) -> None:
    assert chords.run("add", (1, 1)).parts == []
    assert chords.run("boom").parts == []
    assert chords.run("add", (1, 1), headers=member()).parts == []


def test_an_ignored_result_is_still_a_part(chords: Bench) -> None:
    embed = {"chord": signature("total", "body-1")}
    answer = chords.run("add", (1, 1), embed=embed, headers=member(ignore_result=True))
    assert answer.results == []
    assert part(answer)["element"] == b'[1, "t0", "SUCCESS", 2]'


def test_a_retry_is_no_part_and_what_is_ignored_has_failed_unless_it_was_replaced(chords: Bench) -> None:
    from celeriac.exceptions import Ignore

    @chords.app.task(name="again", bind=True)
    def again(self: Any) -> None:
        raise self.retry(countdown=1)

    @chords.app.task(name="ignored")
    def ignored() -> None:
        raise Ignore

    assert run(chords, "again").parts == []

    @chords.app.task(name="replaced", bind=True)
    def replaced(self: Any) -> None:
        self.request._replaced = True
        raise Ignore

    assert run(chords, "replaced").parts == []
    assert part(run(chords, "ignored"))["state"] == "FAILURE"


@pytest.mark.parametrize(
    ("mode", "state", "error"),
    [
        ({"mode": "timed_out", "limit": 3.0}, "FAILURE", "TimeLimitExceeded"),
        ({"mode": "lost", "detail": "signal 9 (SIGKILL)"}, "FAILURE", "WorkerLostError"),
        ({"mode": "revoked", "detail": "terminated"}, "REVOKED", "TaskRevokedError"),
        ({"mode": "unknown"}, "FAILURE", "NotRegistered"),
    ],
)
def test_a_request_that_cannot_run_is_a_failed_part(chords: Bench, mode: Any, state: str, error: str) -> None:
    written = part(run(chords, "add", (1, 1), **mode))
    assert (written["state"], written["task_id"]) == (state, "t0")
    assert json.loads(written["element"])[3]["exc_type"] == error


def test_later_steps_of_a_failed_chain_are_failed_parts(chords: Bench) -> None:
    last = signature("add", "last", chord=signature("total", "body-2"), group_id="g-2", group_index=3)
    inner = {**signature("chord", ""), "subtask_type": "chord"}
    inner["kwargs"] = {"body": signature("total", "inner", chord=signature("total", "body-3"), group_id="g-3")}
    answer = chords.run("boom", embed={"chain": [last, inner, signature("add", "next")]})
    assert [(found.group_id, found.task_id, found.state) for found in answer.parts] == [
        ("g-3", "inner", "FAILURE"),
        ("g-2", "last", "FAILURE"),
    ]
    assert [record.task_id for record in answer.results[1:]] == ["next", "inner", "last"]


def test_a_value_that_cannot_be_encoded_fails_the_part(chords: Bench) -> None:
    @chords.app.task(name="odd", ignore_result=True)
    def odd() -> Any:
        return object()

    written = part(run(chords, "odd"))
    assert (written["state"], json.loads(written["element"])[3]["exc_type"]) == ("FAILURE", "EncodeError")


def test_a_join_sends_the_body_with_the_list_in_front(chords: Bench) -> None:
    answer = join(chords, [[1, "t1", "SUCCESS", 0], [1, "t0", "SUCCESS", 2]])
    assert (answer.kind, answer.results, answer.parts) == ("success", [], [])
    (body,) = answer.publications
    assert json.loads(body.body)[0] == [[0, 2]]
    headers = body.headers
    assert (headers["id"], headers["task"]) == ("body-1", "total")
    # Sent by the part that completed the chord.
    assert (headers["parent_id"], headers["root_id"]) == ("t0", "root")
    assert (headers["group"], headers["group_index"]) == (GROUP, None)


def test_a_failed_part_ends_the_body_as_celery_does(chords: Bench) -> None:
    golden = json.loads((GOLDEN / "redis_results" / "chord_error.json").read_text())
    expected = next(found for found in golden["decoded"].values() if found["result"] and "ChordError" in str(found))
    failed = {"exc_type": "ValueError", "exc_message": ["bad value", 42], "exc_module": "builtins"}
    body = signature("total", "body-1", link_error=[signature("old_errback", "")])
    body["options"]["link_error"][0]["options"] = {}

    dependency = "05087ee1-8df7-48d2-96c9-f8f4cfff3f17"
    answer = join(chords, [[1, "t0", "SUCCESS", 2], [1, dependency, "FAILURE", failed]], body=body)

    assert answer.kind == "failure"
    written = answer.record
    assert written.keys() == expected.keys()
    assert written["result"] == expected["result"]
    assert written["task_id"] == "body-1"
    assert written["traceback"].startswith("ValueError: ('bad value', 42)\n\nThe above exception was the direct cause")
    (((group, parent), ((child, _),)),) = written["children"]
    (errback,) = answer.publications
    assert (errback.headers["id"], errback.headers["group"], parent) == (child[0], group, None)
    assert (errback.headers["parent_id"], errback.headers["root_id"]) == ("body-1", "body-1")
    assert json.loads(errback.body)[0] == ["body-1"]


def test_the_first_failure_in_order_is_the_one_that_is_told(chords: Bench) -> None:
    def failed(text: str) -> dict[str, Any]:
        return {"exc_type": "KeyError", "exc_message": [text], "exc_module": "builtins"}

    answer = join(chords, [[1, "t0", "REVOKED", failed("a")], [1, "t1", "FAILURE", failed("b")]])
    assert answer.record["result"]["exc_message"] == ["Dependency t0 raised KeyError('a')"]


def test_new_style_error_links_of_the_body_are_called_with_a_stand_in(chords: Bench) -> None:
    called: list[Any] = []

    @chords.app.task(name="new_errback")
    def new_errback(request: Any, exc: BaseException, traceback: Any) -> None:
        called.append((request.id, request.task, repr(exc)))

    body = signature("total", "body-1", link_error=signature("new_errback", ""))
    answer = join(chords, [], body=body, broken="signal 9 (SIGKILL)")
    assert called == [
        ("body-1", "total", "ChordError(\"Join error: WorkerLostError('signal 9 (SIGKILL)')\")"),
    ]
    assert answer.publications == []


def test_the_body_of_a_failed_chord_takes_its_chain_and_its_own_chord_with_it(chords: Bench) -> None:
    outer = signature("total", "outer", group_id="g-0")
    body = signature("add", "body-1", chain=[signature("add", "after")], chord=outer, group_id="g-0", group_index=4)
    answer = join(chords, [], body=body, broken="why")
    assert [record.task_id for record in answer.results] == ["body-1", "after"]
    written = part(answer)
    assert (written["group_id"], written["task_id"], written["group_index"]) == ("g-0", "body-1", 4)

    # That was the last part of the outer chord: the same request ends it.
    ended = join(chords, [json.loads(written["element"])], body=body, group_id="g-0")
    assert [record.task_id for record in ended.results] == ["outer"]
    assert "Dependency body-1 raised ChordError" in ended.record["result"]["exc_message"][0]


def test_each_member_of_a_body_that_is_a_group_fails_with_the_cause(chords: Bench) -> None:
    body = {
        "task": "celery.group",
        "args": [],
        "kwargs": {"tasks": [signature("add", "m1"), signature("add", "m2")]},
        "options": {"task_id": "group-2", "link_error": [signature("old_errback", "")]},
        "subtask_type": "group",
        "immutable": False,
    }
    failed = {"exc_type": "ValueError", "exc_message": ["x"], "exc_module": "builtins"}
    answer = join(chords, [[1, "t0", "FAILURE", failed]], body=body)
    assert [record.task_id for record in answer.results] == ["m1", "m2"]
    assert {document(record)["result"]["exc_type"] for record in answer.results} == {"ValueError"}
    assert [json.loads(sent.body)[0] for sent in answer.publications] == [["m1"], ["m2"]]


def test_nested_results_keep_the_shape_of_the_saved_group(chords: Bench) -> None:
    group = {
        "result": [[GROUP, None], [[["inner", None], [[["b", None], None], [["c", None], None]]], [["d", None], None]]]
    }
    elements = [[1, "d", "SUCCESS", 3], [1, "b", "SUCCESS", 1], [1, "c", "SUCCESS", 2]]
    answer = join(chords, elements, group=json.dumps(group).encode())
    assert json.loads(answer.publications[0].body)[0] == [[[1, 2], 3]]


def test_an_element_of_a_celery_worker_may_be_packed(chords: Bench) -> None:
    import zlib

    packed = b"\0celery-compressed\0application/x-gzip\0" + zlib.compress(b'[1, "t0", "SUCCESS", 7]')
    answer = run(chords, "add", (1, 1), mode="join", chord=(GROUP, [packed], None, None))
    assert json.loads(answer.publications[0].body)[0] == [[7]]


def test_a_chord_without_a_body_is_told_to_the_supervisor_as_a_failed_try(chords: Bench) -> None:
    answer = join(chords, [], group_id="of nobody")
    assert (answer.kind, answer.results) == ("rejected", [])
    assert "no body" in answer.summary


def test_a_body_is_found_wherever_the_message_has_it() -> None:
    outer = signature("total", "outer")
    body = signature("add", "body", chord=outer, group_id="g-0")
    step = signature("add", "step", chord=body, group_id="g-1")
    request = Context(id="t", group="g", chord=None, chain=[signature("add", "x"), step])
    assert find_body(request, "g-1") is body
    assert find_body(request, "g-0") is outer
    assert find_body(request, "g-9") is None


def test_a_chord_needs_a_backend_that_counts(make_bench: Callable[..., Bench]) -> None:
    assert counts_chords(make_bench().app)
    without = make_bench(result_backend=None).app
    with pytest.raises(NotImplementedError, match="Starting chords requires a result backend"):
        start_chord(without, "g", 2)
    replies = make_bench(result_backend="rpc://", broker_url="amqp://localhost:1").app
    with pytest.raises(NotImplementedError, match='"rpc" result backend does not support chords'):
        grow_chord(replies, "g")


def test_a_chord_is_started_and_grows(chords: Bench) -> None:
    start_chord(chords.app, "g", 2)
    grow_chord(chords.app, "g")
