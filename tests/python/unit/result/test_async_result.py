"""Results: reading against what Celery gave for the same records, waiting, exceptions."""

from __future__ import annotations

import asyncio
import base64
import builtins
import copy
import io
import json
import os
import select
import threading
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery, exceptions
from celeriac._core import Completions, ResultRecord
from celeriac._state import allow_join_result
from celeriac.result import AsyncResult, EagerResult, GroupResult, result_from_tuple
from celeriac.result.record import build_record

ROWS = {
    row["case"]: row
    for row in json.loads((Path(__file__).parents[3] / "golden/client_reads/records.json").read_text())["rows"]
}


class DemoError(Exception):
    """Stands for the class of that name in the recording's main module."""


def store(app: Celery, task_id: str, document: Any) -> None:
    state = document["status"]
    app.client.store([ResultRecord(task_id, state, json.dumps(document).encode(), "application/json")])


@pytest.mark.parametrize("case", [case for case in ROWS if case not in {"no_record", "child_results"}])
def test_a_record_reads_as_it_does_in_celery(case: str, app: Celery) -> None:
    row = copy.deepcopy(ROWS[case])
    if case == "module_loaded_class_known":
        row["stored"]["result"]["exc_module"] = __name__
    task_id = f"read-{case}"
    store(app, task_id, row["stored"])
    result = AsyncResult(task_id, app=app)

    if row["state"].startswith("raises"):
        with pytest.raises(Exception) as caught:  # noqa: PT011 -- its class is compared below
            _ = result.state
        assert _name(caught.value) == row["state"].split()[1].rstrip(":")
    else:
        assert repr(result.state) == row["state"]
        assert repr(result.result) == row["result"]
        assert repr(result.traceback) == row["traceback"]
        assert str(result.ready()) == row["ready"]
        assert result.date_done is not None
    _check_get(result, row["get"])


def _check_get(result: AsyncResult[Any], expected: Any) -> None:
    if isinstance(expected, str):
        assert f"returns {result.get(timeout=5)!r}" == expected
        return
    with pytest.raises(BaseException) as caught:  # noqa: PT011 -- its class is compared below
        result.get(timeout=0.05)
    raised = expected["raises"].replace("__main__", __name__)
    assert _name(caught.value) == raised
    if raised != "kombu.exceptions.DecodeError":
        assert [*caught.value.args] == expected["args"]
    bases = [_name_of(base) for base in type(caught.value).__mro__[1:-1]]
    assert bases == expected["bases"]


def _name(exc: BaseException) -> str:
    return _name_of(type(exc))


def _name_of(cls: type) -> str:
    from celeriac.serialization.failure import MODULE_ON_WIRE

    module = cls.__module__
    if module == "celeriac.exceptions":
        module = MODULE_ON_WIRE.get(cls, "celery.exceptions")
    return f"{module}.{cls.__qualname__}"


def test_a_record_that_celery_packed_is_read(app: Celery) -> None:
    golden = Path(__file__).parents[3] / "golden/redis_results_compressed/success.json"
    (stored,) = json.loads(golden.read_text())["keys"].values()
    packed = base64.b64decode(stored["value"]["base64"])
    records = [
        ResultRecord(name, "SUCCESS", data, "application/json")
        for name, data in (("good", packed), ("damaged", packed[:-9]))
    ]
    app.client.store(records)

    assert AsyncResult("good", app=app).get(timeout=5) == 5
    with pytest.raises(exceptions.DecodeError):
        AsyncResult("damaged", app=app).get(timeout=5)


def test_without_a_record_the_task_is_pending(app: Celery) -> None:
    result = AsyncResult("nothing", app=app)

    assert (result.state, result.result, result.ready(), result.exists()) == ("PENDING", None, False, False)


def test_children_come_back_as_results_of_tasks_and_of_groups(app: Celery) -> None:
    store(app, "p", ROWS["child_results"]["stored"])

    task, group = AsyncResult("p", app=app).children or ()

    assert (task, type(task)) == ("c1", AsyncResult)
    assert (group, type(group), group.children) == ("g1", GroupResult, ["c2"])


def test_get_wakes_when_another_thread_stores_the_result(app: Celery) -> None:
    result = AsyncResult("later", app=app)
    got: list[Any] = []
    waiter = threading.Thread(target=lambda: got.append(result.get(timeout=30)))
    waiter.start()

    app.client.store([build_record(app, "later", "SUCCESS", {"n": 1})])

    waiter.join(30)
    assert got == [{"n": 1}]


def test_get_runs_out_with_celerys_exception_and_calls_on_interval(app: Celery) -> None:
    calls: list[int] = []

    with pytest.raises(exceptions.TimeoutError):
        AsyncResult("never", app=app).get(timeout=0.05, interval=0.01, on_interval=lambda: calls.append(1))

    assert calls


def test_get_tells_callback_and_on_message(app: Celery) -> None:
    app.client.store([build_record(app, "t", "SUCCESS", 3)])
    seen: list[Any] = []

    AsyncResult("t", app=app).get(callback=lambda *pair: seen.append(pair), on_message=lambda doc: seen.append(doc))

    assert seen[1] == ("t", 3)
    assert seen[0]["status"] == "SUCCESS"


def test_a_failed_parent_is_raised_first(app: Celery) -> None:
    app.client.store([build_record(app, "parent", "FAILURE", KeyError("first"))])
    result = AsyncResult("child", app=app, parent=AsyncResult("parent", app=app))

    with pytest.raises(KeyError, match="first"):
        result.get(timeout=5)


def test_a_parent_that_fails_while_its_child_is_waited_for_ends_the_wait(app: Celery) -> None:
    first: AsyncResult[Any] = AsyncResult("first", app=app)
    header = GroupResult("g", [AsyncResult("a", app=app), AsyncResult("b", app=app)], parent=first, app=app)
    result = AsyncResult("body", app=app, parent=header)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            result.get(timeout=30)
        except Exception as exc:
            raised.append(exc)

    waiter = threading.Thread(target=wait)
    waiter.start()
    app.client.store([build_record(app, "first", "SUCCESS", 1)])
    app.client.store([build_record(app, "b", "REVOKED", exceptions.TaskRevokedError("revoked"))])

    waiter.join(30)
    assert [type(exc) for exc in raised] == [exceptions.TaskRevokedError]
    with pytest.raises(exceptions.TimeoutError):
        result.get(timeout=0.02, follow_parents=False)
    with pytest.raises(exceptions.TimeoutError):
        result.get(timeout=0.02, propagate=False)


def test_the_error_of_the_header_is_raised_before_that_of_the_body(app: Celery) -> None:
    header = GroupResult("g", [AsyncResult("a", app=app), AsyncResult("b", app=app)], app=app)
    records = [build_record(app, "a", "SUCCESS", 1), build_record(app, "b", "FAILURE", KeyError("b"))]
    app.client.store([*records, build_record(app, "body", "FAILURE", exceptions.ChordError("Dependency b"))])
    result = AsyncResult("body", app=app, parent=header)

    with pytest.raises(KeyError):
        result.get(timeout=5)
    with pytest.raises(exceptions.ChordError):
        result.get(timeout=5, follow_parents=False)
    # What is known already is told in the same order.
    known = AsyncResult("body", app=app, parent=GroupResult("g", [AsyncResult("b", app=app)], app=app))
    assert known.failed()
    with pytest.raises(KeyError):
        known.get()


def test_a_timeout_of_0_takes_what_is_there(app: Celery) -> None:
    app.client.store([build_record(app, "t", "SUCCESS", 3)])

    assert AsyncResult("t", app=app).get(timeout=0) == 3
    with pytest.raises(exceptions.TimeoutError):
        AsyncResult("never", app=app).get(timeout=0)


def test_waiting_inside_a_task_is_refused_unless_allowed(app: Celery) -> None:
    app.client.store([build_record(app, "t", "SUCCESS", 3)])
    result = AsyncResult("t", app=app)

    @app.task
    def waits():
        return result.get(timeout=5)

    @app.task
    def waits_knowingly():
        with allow_join_result():
            return result.get(timeout=5), result.get(timeout=5, disable_sync_subtasks=False)

    refused = waits.apply()
    assert isinstance(refused.result, RuntimeError)
    assert waits_knowingly.apply().get() == (3, 3)
    assert waits() == 3


def test_results_that_are_off_say_what_to_set() -> None:
    with Celery("off", broker="memory://") as app:
        result = AsyncResult("t", app=app)

        with pytest.raises(NotImplementedError, match="result_backend"):
            result.get()
        with pytest.raises(NotImplementedError, match="result_backend"):
            _ = result.state


def test_forget_removes_the_record_and_that_of_the_parent(app: Celery) -> None:
    app.client.store([build_record(app, name, "SUCCESS", 1) for name in ("a", "b")])
    result = AsyncResult("b", app=app, parent=AsyncResult("a", app=app))
    assert result.get() == 1

    result.forget()

    assert (result.state, AsyncResult("a", app=app).state) == ("PENDING", "PENDING")


def test_then_calls_back_with_the_result(app: Celery) -> None:
    app.client.store([build_record(app, "ok", "SUCCESS", 1), build_record(app, "bad", "FAILURE", ValueError("x"))])

    assert AsyncResult("ok", app=app).then(lambda result: result.result + 1) == 2
    assert AsyncResult("bad", app=app).then(lambda _: "ok", on_error=lambda _: "failed") == "failed"


def tree(app: Celery) -> AsyncResult[Any]:
    """`p` has sent `c1` and the group of `c2`; `c1` has sent `leaf`."""
    store(app, "p", ROWS["child_results"]["stored"] | {"task_id": "p"})
    child = {"status": "SUCCESS", "result": 2, "traceback": None, "children": [], "task_id": "c2"}
    store(app, "c2", child)
    store(app, "c1", child | {"task_id": "c1", "children": [[["leaf", None], None]]})
    return AsyncResult("p", app=app)


def test_what_a_task_led_to_is_walked_and_drawn(app: Celery) -> None:
    result = tree(app)

    with pytest.raises(exceptions.IncompleteStream):
        list(result.iterdeps())
    with pytest.raises(exceptions.IncompleteStream):
        _ = result.graph
    pairs = [(parent, node) for parent, node in result.iterdeps(intermediate=True)]
    assert pairs == [(None, "p"), ("p", "c1"), ("p", "g1"), ("c1", "leaf"), ("g1", "c2")]

    app.client.store([build_record(app, "leaf", "SUCCESS", "end")])
    assert [(node.id, value) for node, value in result.collect()] == [
        ("p", 1),
        ("c1", 2),
        ("g1", [2]),
        ("leaf", "end"),
        ("c2", 2),
    ]
    assert result.get_leaf() == 2
    graph = result.graph
    assert len(graph) == 5
    assert graph.topsort()[-1] == "p"
    out = io.StringIO()
    graph.to_dot(out)
    assert [line.strip().partition(" [")[0] for line in out.getvalue().splitlines() if "->" in line] == [
        '"p" -> "c1"',
        '"p" -> "g1"',
        '"c1" -> "leaf"',
        '"g1" -> "c2"',
    ]


def test_identity_tuple_and_copies(app: Celery) -> None:
    result: AsyncResult[Any] = AsyncResult("b", app=app, parent=AsyncResult("a", app=app))

    assert result == "b"
    assert result == AsyncResult("b", app=app)
    assert result != AsyncResult("a", app=app)
    assert hash(result) == hash(AsyncResult("b", app=app))
    assert result.as_tuple() == (("b", (("a", None), None)), None)
    assert result.as_list() == ["b", "a"]
    back = result_from_tuple(json.loads(json.dumps(result.as_tuple())), app)
    assert back == result
    assert back.parent == result.parent
    assert copy.copy(result) == result


def test_await_gives_what_get_gives(app: Celery) -> None:
    async def main() -> Any:
        waiting = asyncio.ensure_future(AsyncResult("a", app=app).aget(timeout=30))
        await asyncio.sleep(0)
        app.client.store([build_record(app, "a", "SUCCESS", 5), build_record(app, "b", "FAILURE", ValueError("no"))])
        with pytest.raises(ValueError, match="no"):
            await AsyncResult("b", app=app)
        with pytest.raises(exceptions.TimeoutError):
            await AsyncResult("c", app=app).aget(timeout=0.01)
        return await waiting

    assert asyncio.run(main()) == 5


def test_many_coroutines_on_loops_in_several_threads(app: Celery) -> None:
    app.client.store([build_record(app, f"t{n}", "SUCCESS", n) for n in range(50)])
    totals: list[int] = []

    async def main() -> int:
        return sum(await asyncio.gather(*(AsyncResult(f"t{n}", app=app).aget(timeout=30) for n in range(50))))

    threads = [threading.Thread(target=lambda: totals.append(asyncio.run(main()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert totals == [sum(range(50))] * 4


def test_a_cancelled_wait_leaves_the_loop_usable(app: Celery) -> None:
    async def main() -> Any:
        with pytest.raises(builtins.TimeoutError):
            await asyncio.wait_for(AsyncResult("never", app=app).aget(), 0.01)
        app.client.store([build_record(app, "t", "SUCCESS", 1)])
        return await AsyncResult("t", app=app)

    assert asyncio.run(main()) == 1


def test_a_cancelled_wait_ends_in_the_engine_too(app: Celery) -> None:
    client, completions = app.client, Completions()
    client.wait_later(["never"], None, completions, 1)
    client.wait_later(["t"], 30.0, completions, 2)

    completions.cancel(1)
    completions.cancel(1)
    completions.cancel(3)
    client.store([build_record(app, "t", "SUCCESS", 1), build_record(app, "never", "SUCCESS", 1)])

    reported: list[int] = []
    while not reported:
        assert select.select([completions.fileno()], [], [], 30)[0], "the other wait reports"
        reported += [token for token, _ in completions.drain()]
    # Returns when no call is under way any more: the cancelled one has no limit of its own.
    client.close(30)
    assert reported + [token for token, _ in completions.drain()] == [2]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors as Linux shows them")
def test_readers_go_with_their_loops(app: Celery) -> None:
    import gc

    from celeriac.result import _aio

    app.client.store([build_record(app, "t", "SUCCESS", 1)])
    gc.collect()
    before = len(_aio._readers)

    async def main() -> Any:
        return await AsyncResult("t", app=app)

    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        asyncio.run(main())
    gc.collect()

    assert len(_aio._readers) == before
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


def test_an_eager_result_reads_like_any_other() -> None:
    good = EagerResult("a", 1, "SUCCESS", name="t")
    bad: EagerResult[Any] = EagerResult("b", ValueError("no"), "FAILURE", "text")

    assert (good.get(), good.state, good.ready(), good.successful(), good.name) == (1, "SUCCESS", True, True, "t")
    with pytest.raises(ValueError, match="no"):
        bad.get()
    assert repr(bad.get(propagate=False)) == "ValueError('no')"
    assert bad.traceback == "text"
    assert bad.failed()
    good.revoke()
    assert good.state == "REVOKED"
    assert asyncio.run(_awaited(EagerResult("c", 2, "SUCCESS"))) == 2


async def _awaited(result: AsyncResult[Any]) -> Any:
    return await result
