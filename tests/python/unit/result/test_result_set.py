"""`ResultSet` and `GroupResult`: reading, joining, awaiting, saving."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from celeriac import Celery, exceptions
from celeriac._core import Client
from celeriac.result import (
    AsyncResult,
    EagerResult,
    GroupResult,
    ResultSet,
    allow_join_result,
    denied_join_result,
    result_from_tuple,
)
from celeriac.result.record import build_record

Done = Callable[..., None]


def group(app: Celery, *ids: str, id: str = "g", parent: Any = None) -> GroupResult:
    return GroupResult(id, [AsyncResult(task_id, app=app) for task_id in ids], parent=parent, app=app)


class CountingClient:
    """Counts the calls that reach the result backend."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def counted(*args: Any) -> Any:
            self.calls.append(name)
            return call(*args)

        return counted


@pytest.fixture
def counted(app: Celery, monkeypatch: pytest.MonkeyPatch) -> CountingClient:
    client = CountingClient(app.client)
    monkeypatch.setattr(Celery, "client", client)
    return client


# -- states


def test_states_of_all_are_read_in_one_round_trip(app: Celery, done: Done, counted: CountingClient) -> None:
    done(a=1, b=2)
    counted.calls.clear()
    results = group(app, "a", "b", "c")

    assert (results.ready(), results.successful(), results.failed(), results.waiting()) == (False, False, False, True)
    assert results.completed_count() == 2
    assert counted.calls == ["read"] * 5

    done(c=KeyError("x"))
    counted.calls.clear()
    assert (results.ready(), results.successful(), results.failed(), results.waiting()) == (True, False, True, False)
    assert results.completed_count() == 2
    # What is final is not read again.
    assert counted.calls == ["store", "read"][1:]


def test_an_empty_set_is_ready_and_successful(app: Celery) -> None:
    empty = ResultSet([], app=app)

    assert (empty.ready(), empty.successful(), empty.failed(), empty.waiting()) == (True, True, False, False)
    assert (empty.completed_count(), empty.get(), empty.join(), list(empty.iter_native())) == (0, [], [], [])


def test_a_group_among_the_members_counts_as_one(app: Celery, done: Done) -> None:
    results = ResultSet([group(app, "a", "b"), AsyncResult("c", app=app)], app=app)
    done(a=1, c=3)
    assert results.completed_count() == 1

    done(b=2)

    assert results.completed_count() == 2
    assert results.get(timeout=5) == [[1, 2], 3]
    assert results.join(timeout=5) == [[1, 2], 3]


def test_maybe_throw_raises_what_the_first_of_the_list_raised(app: Celery, done: Done, counted: CountingClient) -> None:
    group(app, "a", "b").maybe_throw()
    assert counted.calls == ["read"]
    done(b=KeyError("second"), a=ValueError("first"))
    results = group(app, "a", "b")

    with pytest.raises(ValueError, match="first"):
        results.maybe_throw()
    seen: list[Any] = []
    results.maybe_reraise(callback=lambda task_id, value: seen.append((task_id, type(value))), propagate=False)
    assert seen == [("a", ValueError), ("b", KeyError)]


# -- waiting


@pytest.mark.parametrize("how", ["get", "join", "join_native"])
def test_values_come_in_the_order_of_the_list(app: Celery, done: Done, how: str) -> None:
    done(c=3, a=1, b=None)

    assert getattr(group(app, "a", "b", "c"), how)(timeout=5) == [1, None, 3]


def test_join_native_raises_the_first_failure_to_arrive_and_join_the_first_of_the_list(app: Celery) -> None:
    native: list[BaseException] = []

    def wait() -> None:
        try:
            group(app, "a", "b").join_native(timeout=30)
        except Exception as exc:
            native.append(exc)

    waiter = threading.Thread(target=wait)
    waiter.start()
    app.client.store([build_record(app, "b", "FAILURE", KeyError("later in the list"))])
    # It does not wait for the other.
    waiter.join(30)
    app.client.store([build_record(app, "a", "FAILURE", ValueError("first of the list"))])

    assert [type(exc) for exc in native] == [KeyError]
    with pytest.raises(ValueError, match="first of the list"):
        group(app, "a", "b").join(timeout=5)


def test_without_propagation_exceptions_are_among_the_values(app: Celery, done: Done) -> None:
    done(a=1, b=ValueError("x"))

    for how in ("get", "join"):
        first, second = getattr(group(app, "a", "b"), how)(timeout=5, propagate=False)
        assert (first, type(second)) == (1, ValueError)


def test_callbacks_are_told_of_each_and_nothing_is_returned(app: Celery, done: Done) -> None:
    done(b=2, a=1)
    seen: list[Any] = []
    documents: list[Any] = []

    def tell(task_id: str, value: Any) -> None:
        seen.append((task_id, value))

    assert group(app, "a", "b").get(timeout=5, callback=tell, on_message=documents.append) is None
    assert sorted(seen) == [("a", 1), ("b", 2)]
    assert sorted(document["task_id"] for document in documents) == ["a", "b"]
    assert group(app, "a", "b").join(timeout=5, callback=tell) == []
    assert sorted(seen[2:]) == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("how", ["get", "join"])
def test_a_wait_runs_out_and_calls_on_interval(app: Celery, done: Done, how: str) -> None:
    done(a=1)
    calls: list[int] = []

    with pytest.raises(exceptions.TimeoutError):
        getattr(group(app, "a", "never"), how)(timeout=0.05, interval=0.01, on_interval=lambda: calls.append(1))

    assert calls


@pytest.mark.parametrize("how", ["get", "join"])
def test_a_timeout_of_0_takes_what_is_there(app: Celery, done: Done, how: str) -> None:
    done(a=1, b=2)
    assert getattr(group(app, "a", "b"), how)(timeout=0) == [1, 2]

    with pytest.raises(exceptions.TimeoutError):
        getattr(group(app, "a", "never"), how)(timeout=0)


def test_an_error_of_on_interval_ends_the_wait(app: Celery) -> None:
    def give_up() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        group(app, "never").get(timeout=30, interval=0.01, on_interval=give_up)


def test_iter_native_gives_documents_and_of_groups_their_results(app: Celery, done: Done) -> None:
    done(a=1, b=2, c=3)
    within = group(app, "b", "c", id="within")
    found = dict(ResultSet([AsyncResult("a", app=app), within], app=app).iter_native(timeout=5))

    assert found["a"]["status"] == "SUCCESS"
    assert found["a"]["result"] == 1
    assert found["within"] == within.results


def test_iterate_gives_values_as_tasks_end(app: Celery, done: Done) -> None:
    values = group(app, "a", "b").iterate(timeout=30)
    done(b=2)
    assert next(values) == 2
    done(a=1)
    assert list(values) == [1]

    done(x=KeyError("x"))
    with pytest.raises(KeyError):
        list(group(app, "x").iterate(timeout=5))


def test_a_member_that_is_there_twice_is_there_twice_in_the_values(app: Celery, done: Done) -> None:
    done(a=1, b=2)
    member: AsyncResult[Any] = AsyncResult("a", app=app)
    seen: list[Any] = []

    assert ResultSet([member, AsyncResult("b", app=app), member, AsyncResult("a", app=app)]).get(5) == [1, 2, 1, 1]
    ResultSet([member, AsyncResult("a", app=app)], app=app).get(5, callback=lambda *pair: seen.append(pair))
    assert seen == [("a", 1), ("a", 1)]


def test_a_member_whose_result_is_ignored_is_not_waited_for(app: Celery, done: Done) -> None:
    done(a=1)
    results = group(app, "a", "ignored")
    results[1].ignored = True

    assert results.get(timeout=5) == [1, None]


def test_what_came_before_a_group_and_failed_ends_the_wait_for_it(app: Celery, done: Done) -> None:
    first: AsyncResult[Any] = AsyncResult("first", app=app)
    results = group(app, "a", "b", parent=AsyncResult("second", app=app, parent=first))
    done(first=KeyError("before"))

    with pytest.raises(KeyError, match="before"):
        results.get(timeout=30)
    with pytest.raises(exceptions.TimeoutError):
        results.get(timeout=0.02, propagate=False)


def test_of_what_came_before_only_failures_are_told(app: Celery, done: Done) -> None:
    arrivals = app.client.arrivals(["c", "d"], before=["a", "b", "c"])
    done(a=1, d=4)
    assert [record.task_id for record in arrivals.next(30)] == ["d"]

    done(b=KeyError("b"))
    assert [record.task_id for record in arrivals.next(30)] == ["b"]
    with pytest.raises(TimeoutError):
        arrivals.next(0.02)

    done(c=3)
    assert [record.task_id for record in arrivals.next(30)] == ["c"]
    assert arrivals.next(30) == []


def test_results_that_ran_here_are_joined_like_others(app: Celery, done: Done) -> None:
    done(a=1)
    fine = EagerResult("e", 2, "SUCCESS")
    bad = EagerResult("f", ValueError("x"), "FAILURE")
    ignored = EagerResult("i", None, "IGNORED")

    assert ResultSet([AsyncResult("a", app=app), fine, ignored], app=app).get(timeout=5) == [1, 2, None]
    assert ResultSet([fine], app=app).successful()
    assert ResultSet([fine, bad], app=app).failed()
    with pytest.raises(ValueError, match="x"):
        ResultSet([fine, bad], app=app).get()
    # Nothing of them is stored anywhere.
    ResultSet([fine, bad], app=app).forget()


def test_ten_thousand_members_are_waited_for_with_one_watch(app: Celery, counted: CountingClient) -> None:
    ids = [f"t{number}" for number in range(10_000)]
    results = group(app, *ids)
    seen: list[int] = []

    def store_more() -> None:
        # Ten batches, the last members first.
        start = 9_000 - 1_000 * len(seen)
        seen.append(start)
        app.client.store([build_record(app, f"t{n}", "SUCCESS", n) for n in reversed(range(start, start + 1_000))])

    values = results.get(timeout=120, interval=0.001, on_interval=lambda: store_more() if len(seen) < 10 else None)

    assert values == list(range(10_000))
    assert len(seen) == 10
    assert [call for call in counted.calls if call != "store"] == ["arrivals"]


def test_joining_inside_a_task_is_refused_unless_allowed(app: Celery, done: Done) -> None:
    done(a=1)
    results = group(app, "a")

    @app.task
    def joins(how: str, **options: Any) -> Any:
        return getattr(results, how)(timeout=5, **options)

    @app.task
    def joins_knowingly() -> Any:
        with allow_join_result():
            return results.get(timeout=5)

    for how in ("get", "join", "join_native"):
        refused = joins.apply((how,))
        assert isinstance(refused.result, RuntimeError), how
        assert "within a task" in str(refused.result)
        assert joins.apply((how,), {"disable_sync_subtasks": False}).get() == [1]
    assert joins_knowingly.apply().get() == [1]
    with denied_join_result(), pytest.raises(RuntimeError):
        results.get(timeout=5)


# -- coroutines


def test_await_gives_what_get_gives_and_wakes_when_results_come(app: Celery, done: Done) -> None:
    async def main() -> Any:
        waiting = asyncio.ensure_future(group(app, "a", "b").aget(timeout=30))
        await asyncio.sleep(0)
        done(b=2)
        await asyncio.sleep(0)
        done(a=1)
        return await waiting, await group(app, "a", "b")

    assert asyncio.run(main()) == ([1, 2], [1, 2])


def test_await_raises_what_a_member_raised_and_runs_out(app: Celery, done: Done) -> None:
    done(a=1, bad=ValueError("x"))

    async def main() -> None:
        with pytest.raises(ValueError, match="x"):
            await group(app, "never", "bad")
        with pytest.raises(exceptions.TimeoutError):
            await group(app, "a", "never").aget(timeout=0.02)
        first, second = await group(app, "a", "bad").aget(propagate=False) or ()
        assert (first, type(second)) == (1, ValueError)
        await asyncio.wait_for(group(app, "a").aget(), 30)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(group(app, "never").aget(), 0.02)

    asyncio.run(main())


def test_async_iteration_gives_members_as_they_end(app: Celery, done: Done) -> None:
    async def main() -> list[Any]:
        found = []
        within = group(app, "b", "c", id="within")
        done(c=3)
        async for result in ResultSet([AsyncResult("a", app=app), within, GroupResult("empty", [])], app=app):
            found.append(result)
            if result == "empty":
                done(b=2)
            elif result == "within":
                done(a=KeyError("told, not raised"))
        return found

    assert asyncio.run(main()) == ["empty", "within", "a"]


def test_a_result_awaited_raises_what_came_before_it_raised(app: Celery, done: Done) -> None:
    header = group(app, "a", "b")
    done(b=KeyError("in the header"), body=exceptions.ChordError("Dependency b raised KeyError"))

    async def main() -> None:
        body: AsyncResult[Any] = AsyncResult("body", app=app, parent=header)
        with pytest.raises(KeyError, match="in the header"):
            await body
        known: AsyncResult[Any] = AsyncResult("body", app=app, parent=group(app, "a", "b"))
        assert known.failed()
        with pytest.raises(KeyError, match="in the header"):
            await known
        with pytest.raises(exceptions.ChordError):
            await AsyncResult("body", app=app, parent=header).aget(follow_parents=False)

    asyncio.run(main())


# -- members


def test_members_are_added_once_and_removed_by_result_or_id(app: Celery) -> None:
    a, b, c = (AsyncResult(name, app=app) for name in "abc")
    results = ResultSet([a])
    results.add(b)
    results.add(AsyncResult("b", app=app))
    results.update([c, a, AsyncResult("c", app=app), "d" and AsyncResult("d", app=app)])

    assert list(results) == ["a", "b", "c", "d"]
    assert (len(results), results[1], results[1:3]) == (4, "b", ["b", "c"])
    results.remove("b")
    results.remove(c)
    with pytest.raises(KeyError):
        results.remove("b")
    results.discard("b")
    results.discard(a)
    assert results.results == ["d"]
    results.clear()
    assert len(results) == 0
    results.add(a)
    results.results[0] = b
    results.add(a)
    assert list(results) == ["b", "a"]


def test_adding_many_compares_none_with_all(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    equal = AsyncResult.__eq__

    def count(self: AsyncResult[Any], other: object) -> bool:
        compared.append(1)
        return equal(self, other)

    monkeypatch.setattr(AsyncResult, "__eq__", count)
    results = ResultSet([], app=app)
    for number in range(1_000):
        results.add(AsyncResult(str(number), app=app))
    results.update(AsyncResult(str(number), app=app) for number in range(1_000, 2_000))

    assert len(results) == 2_000
    assert not compared


def test_a_set_keeps_the_list_it_was_given_and_takes_the_app_of_its_first_member(app: Celery) -> None:
    members = [AsyncResult("a", app=app)]
    results = ResultSet(members)

    assert results.results is members
    assert results.app is app
    with Celery("other", set_as_current=False) as other:
        results.app = other
        assert results.app is other


def test_equality_hash_text_and_pickle(app: Celery) -> None:
    one, same, other = group(app, "a", "b"), group(app, "a", "b"), group(app, "a")

    assert one == same
    assert one == "g"
    assert one != other
    assert one != GroupResult("g", one.results, parent=AsyncResult("p", app=app))
    assert hash(one) == hash(same)
    assert ResultSet(one.results) == ResultSet(same.results)
    with pytest.raises(TypeError):
        hash(ResultSet([]))
    assert str(one) == "g"
    assert repr(one) == "<GroupResult: g [a, b]>"
    assert repr(ResultSet(one.results)) == "<ResultSet: [a, b]>"
    assert pickle.loads(pickle.dumps(one)) == one
    assert pickle.loads(pickle.dumps(ResultSet(one.results))) == ResultSet(one.results)
    assert bool(one)
    assert bool(GroupResult(None, [one]))
    assert not GroupResult(None, [])


def test_then_calls_back_when_all_have_ended(app: Celery, done: Done) -> None:
    done(a=1, b=2, bad=KeyError("x"))

    assert group(app, "a", "b").then(lambda results: results.get()) == [1, 2]
    assert group(app, "a", "bad").then(lambda _: "ok", on_error=lambda _: "failed") == "failed"
    assert group(app, "a", "bad").then(lambda _: "ok") is None


def test_forget_removes_members_and_what_came_before_them_in_one_call(
    app: Celery, done: Done, counted: CountingClient
) -> None:
    done(a=1, b=2, before=0)
    results = ResultSet([AsyncResult("a", app=app, parent=AsyncResult("before", app=app)), group(app, "b")], app=app)
    assert results.get(timeout=5) == [1, [2]]
    counted.calls.clear()

    results.forget()

    assert counted.calls == ["forget"]
    assert {AsyncResult(name, app=app).state for name in ("a", "b", "before")} == {"PENDING"}
    assert not results.ready()


def test_revoke_is_one_command_for_all(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(type(app.control), "revoke", lambda _, *args, **options: sent.append((args, options)))

    ResultSet([group(app, "a", "b"), AsyncResult("c", app=app)], app=app).revoke(terminate=True, signal="KILL")

    assert sent == [((["a", "b", "c"],), {"terminate": True, "signal": "KILL"})]


# -- saving


def test_a_saved_group_is_restored_with_groups_within_and_its_parent(app: Celery) -> None:
    parent: AsyncResult[Any] = AsyncResult("p", app=app)
    saved = GroupResult("g", [group(app, "a", "b", id="within"), AsyncResult("c", app=app)], parent=parent, app=app)
    saved.save()

    back = GroupResult.restore("g", app=app)

    assert back == saved
    assert back.app is app
    assert back.results[0].children == ["a", "b"]
    assert app.GroupResult.restore("g") == saved
    back.delete()
    assert GroupResult.restore("g", app=app) is None
    assert GroupResult.restore("never", app=app) is None


def test_a_group_is_saved_in_celerys_form(app: Celery) -> None:
    group(app, "a", "b", parent=AsyncResult("p", app=app)).save()

    stored = app.client.read_group("g")

    assert stored is not None
    assert json.loads(stored[0]) == {"result": [["g", [["p", None], None]], [[["a", None], None], [["b", None], None]]]}
    assert stored[1] == "application/json"
    # It is no task.
    assert AsyncResult("g", app=app).state == "PENDING"


def test_a_group_may_be_saved_elsewhere(app: Celery) -> None:
    class Shelf:
        kept: dict[str, Any] = {}

        def save_group(self, group_id: str, result: Any) -> None:
            self.kept[group_id] = result

        def restore_group(self, group_id: str) -> Any:
            return self.kept.get(group_id)

        def delete_group(self, group_id: str) -> None:
            del self.kept[group_id]

    shelf, results = Shelf(), group(app, "a")
    results.save(backend=shelf)

    assert GroupResult.restore("g", backend=shelf) is results
    assert GroupResult.restore("g", app=app) is None
    results.delete(backend=shelf)
    assert not shelf.kept


def test_a_group_without_an_id_cannot_be_saved_and_says_so(app: Celery) -> None:
    with pytest.raises(ValueError, match="give it one"):
        GroupResult(None, [], app=app).save()


def test_results_that_are_off_say_what_to_set() -> None:
    with Celery("off", broker="memory://") as off:
        for call in (group(off, "a").get, group(off, "a").ready, group(off, "a").save):
            with pytest.raises(NotImplementedError, match="result_backend"):
                call()
        with pytest.raises(NotImplementedError, match="result_backend"):
            GroupResult.restore("g", app=off)


def test_a_store_without_groups_says_so() -> None:
    # Nothing is asked of a server: the store knows that it cannot.
    with Celery("rpc", broker="amqp://nowhere.invalid", backend="rpc://") as rpc:
        for call in (group(rpc, "a").save, group(rpc, "a").delete, lambda: GroupResult.restore("g", app=rpc)):
            with pytest.raises(NotImplementedError, match="not supported by result backend"):
                call()


# -- tuples


def test_tuples_of_groups_become_results_again(app: Celery) -> None:
    results = GroupResult(
        "g",
        [group(app, "a", id="within"), AsyncResult("c", app=app, parent=AsyncResult("b", app=app))],
        parent=AsyncResult("p", app=app),
        app=app,
    )
    form = json.loads(json.dumps(results.as_tuple()))

    assert form == [
        ["g", [["p", None], None]],
        [[["within", None], [[["a", None], None]]], [["c", [["b", None], None]], None]],
    ]
    back = result_from_tuple(form, app)
    assert back == results
    assert back.results[1].parent == "b"
    assert result_from_tuple(results, app) is results
    assert results.as_list() == ["a", "c", "p"]
    assert AsyncResult("body", app=app, parent=results).as_list() == ["body", "a", "c", "p"]


def test_a_returned_result_is_stored_as_its_tuple(app: Celery) -> None:
    results = group(app, "a")
    app.client.store([build_record(app, "t", "SUCCESS", results), build_record(app, "u", "SUCCESS", results[0])])

    assert AsyncResult("t", app=app).get(timeout=5) == [["g", None], [[["a", None], None]]]
    assert AsyncResult("u", app=app).get(timeout=5) == [["a", None], None]
    assert result_from_tuple(AsyncResult("t", app=app).get(timeout=5), app) == results
