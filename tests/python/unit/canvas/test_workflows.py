"""Groups, chords, chunks and maps as values, and what is refused."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery, Task, chain, chord, chunks, group, maybe_signature, signature, xstarmap
from celeriac.canvas import Signature
from celeriac.exceptions import EncodeError, Ignore, ImproperlyConfigured
from celeriac.result import GroupResult
from celeriac.signals import after_task_publish

from .messages import Outbox, neutral, recorded_messages


def shape(sig: Any) -> Any:
    """Kinds and arguments alone."""
    match sig["subtask_type"]:
        case "chain" | "group":
            return [sig["subtask_type"], *map(shape, sig.tasks)]
        case "chord":
            header = sig.tasks if isinstance(sig.tasks, list) else sig.tasks.tasks
            return ["chord", [shape(one) for one in header], shape(sig.body)]
    return sig.args[0] if sig.args else "-"


def test_what_follows_a_group_makes_it_a_chord(tasks) -> None:
    a, b, c, d, e = (tasks.echo.s(name) for name in "abcde")
    pair = group(a, b)

    assert shape(pair | c) == ["chord", ["a", "b"], "c"]
    assert shape(pair | c | d) == ["chord", ["a", "b"], ["chain", "c", "d"]]
    assert shape(chain(e, pair, c)) == ["chain", "e", ["chord", ["a", "b"], "c"]]
    assert shape(chain(pair, c, d)) == ["chord", ["a", "b"], ["chain", "c", "d"]]
    assert shape(e | pair) == ["chain", "e", ["group", "a", "b"]]
    assert shape(e | pair | c) == ["chain", "e", ["chord", ["a", "b"], "c"]]
    assert shape(pair | group(c, d)) == ["chord", ["a", "b"], ["group", "c", "d"]]
    assert shape(pair | (c | d)) == ["chord", ["a", "b"], ["chain", "c", "d"]]
    assert shape((c | pair) | chord([d, e], a)) == ["chain", "c", ["chord", ["a", "b"], ["chord", ["d", "e"], "a"]]]


def test_groups_of_one_are_their_member_and_empty_ones_nothing(tasks) -> None:
    a, b = tasks.echo.s("a"), tasks.echo.s("b")

    assert shape(a | group(b)) == ["chain", "a", "b"]
    assert shape(chain(group(a), b)) == ["chain", "a", "b"]
    assert shape(chain(a, group(), b)) == ["chain", "a", "b"]
    assert shape((a | b) | group()) == ["chain", "a", "b"]
    assert shape(chain([group(a, b)])) == ["group", "a", "b"]
    assert not group()
    assert len(group(a, b)) == 2
    assert repr(group()) == "group(<empty>)"


def test_joining_changes_neither_side(tasks) -> None:
    left, right = group(tasks.add.s(1), tasks.add.s(2)), chain(tasks.total.s(), tasks.add.s(3))
    before = json.dumps([left, right])

    joined = left | right | tasks.add.s(4)
    joined.freeze()
    joined.set(queue="elsewhere").link(tasks.echo.s())

    assert json.dumps([left, right]) == before


@pytest.mark.parametrize("through", ["json", "pickle"])
def test_a_workflow_survives(through: str, tasks, outbox: Outbox) -> None:
    app = tasks.add.app
    whole = chain(
        tasks.add.s(1, 1), group(tasks.add.s(2), chain(tasks.add.s(3), tasks.add.s(4))), tasks.total.s(), app=app
    ) | chord([tasks.add.si(1, 2), group(tasks.add.si(3, 4))], tasks.total.s().on_error(tasks.errback_old.s()))

    if through == "json":
        back = maybe_signature(json.loads(json.dumps(whole)), app=app)
        assert json.dumps(back) == json.dumps(whole)
    else:
        app.set_current()
        back = pickle.loads(pickle.dumps(whole))
    whole.apply_async()
    sent = outbox.messages()
    outbox.sent.clear()
    back.apply_async()

    assert neutral(outbox.messages()) == neutral(sent)


def test_a_frozen_workflow_is_sent_under_its_ids(tasks, outbox: Outbox) -> None:
    whole = chord([tasks.add.s(1, 1), chain(tasks.add.s(2, 2), tasks.add.s(3))], tasks.total.s())

    frozen = whole.freeze()
    result = whole.apply_async()

    assert result.id == frozen.id
    assert [one.id for one in result.parent] == [one.id for one in frozen.parent]
    ids = [message["headers"]["id"] for message in outbox.messages()]
    assert ids == [result.parent[0].id, result.parent[1].parent.id]
    assert outbox.chords == [(result.parent.id, 2)]


def test_members_of_a_group_are_sent_together_and_in_order(tasks, outbox: Outbox) -> None:
    result = group(tasks.add.s(i, i) for i in range(5)).apply_async()

    assert isinstance(result, GroupResult)
    messages = outbox.messages()
    assert [one["headers"]["id"] for one in messages] == [one.id for one in result]
    assert {one["headers"]["group"] for one in messages} == {result.id}
    assert [one["headers"]["group_index"] for one in messages] == [0, 1, 2, 3, 4]
    assert not outbox.chords


def test_a_group_takes_arguments_and_options_for_its_members(tasks, outbox: Outbox) -> None:
    group(tasks.add.s(1), tasks.add.si(5, 5))(10, queue="elsewhere")

    assert [one["body"][0] for one in outbox.messages()] == [[10, 1], [5, 5]]
    assert {one["place"][1] for one in outbox.messages()} == {"elsewhere"}
    with pytest.raises(TypeError, match="use a chord"):
        group(tasks.add.s(1, 1)).apply_async(link=tasks.echo.s())
    with pytest.raises(TypeError, match="individual tasks"):
        group(tasks.add.s(1, 1)).apply_async(link_error=tasks.echo.s())


def test_links_of_a_group_go_to_its_members(tasks) -> None:
    pair = group(tasks.add.s(1, 1), tasks.add.s(2, 2))

    pair.link(tasks.echo.s("done"))
    errbacks = pair.link_error(tasks.errback_old.s())

    assert [one.options.get("link") for one in pair.tasks] == [[tasks.echo.si("done")], None]
    assert errbacks == (tasks.errback_old.s(), tasks.errback_old.s())
    assert all(one.options["link_error"] == [tasks.errback_old.s()] for one in pair.tasks)


def test_a_skewed_group_starts_one_after_the_other(tasks) -> None:
    def countdowns(**how):
        return [one.options["countdown"] for one in group(tasks.add.s(i) for i in range(4)).skew(**how).tasks]

    assert countdowns() == [1, 2, 3, 4]
    assert countdowns(start=0, stop=3, step=2) == [0, 2, 2, 2]


def test_an_empty_group_gives_an_empty_result(tasks, outbox: Outbox) -> None:
    result = group(app=tasks.add.app).apply_async()

    assert result.results == []
    assert not outbox.sent


def test_a_chord_gets_its_body_when_it_is_called(tasks, outbox: Outbox) -> None:
    result = chord(tasks.add.s(i, i) for i in range(3))(tasks.total.s(), countdown=5)

    messages = outbox.messages()
    assert [one["body"][2]["chord"]["options"]["task_id"] for one in messages] == [result.id] * 3
    assert all(one["headers"]["eta"] for one in messages)
    assert "countdown" not in messages[0]["body"][2]["chord"]["options"]
    with pytest.raises(TypeError, match="needs a body"):
        chord([tasks.add.s(1, 1)]).apply_async()


def test_what_is_linked_to_a_chord_is_linked_to_its_body(tasks, outbox: Outbox) -> None:
    whole = chord([tasks.add.s(1, 1)], tasks.total.s())
    whole.link(tasks.echo.s())
    whole.apply_async(link=tasks.callback.s(), link_error=tasks.errback_old.s())

    (message,) = outbox.messages()
    body = message["body"][2]["chord"]["options"]
    assert [one["task"] for one in body["link"]] == ["demo.echo", "demo.callback"]
    assert [one["task"] for one in body["link_error"]] == ["demo.errback_old"]
    assert message["body"][2]["errbacks"] is None


@pytest.mark.parametrize("backend", [None, "rpc"])
def test_a_chord_that_cannot_be_joined_is_refused_before_anything_is_sent(
    backend: str | None, register, outbox: Outbox
) -> None:
    url = "amqp://localhost"
    app = Celery("nowhere", broker=url, backend=backend and f"{backend}://")
    tasks = register(app)

    with pytest.raises(NotImplementedError, match="result_backend"):
        chord([tasks.add.s(1, 1)], tasks.echo.s()).apply_async()
    with pytest.raises(NotImplementedError, match="result_backend"):
        (tasks.add.s(1, 1) | group(tasks.add.s(1), tasks.add.s(2)) | tasks.echo.s()).freeze().app.counts_chords()

    assert not outbox.sent


def test_a_chord_is_polled_for_where_the_backend_does_not_count(golden, register, outbox: Outbox) -> None:
    recorded = golden("redis_messages/chord_unlock_fallback")
    app = Celery("capture", broker="sqlite:///unused.db", backend="db+sqlite:///results.db")
    tasks = register(app)

    chord([tasks.add.s(i, i) for i in range(3)], app.signature("demo.total")).apply_async()

    ours, theirs = outbox.messages(), recorded_messages(recorded)
    for one in (ours[0], theirs[0]):
        assert one["headers"]["eta"]
        one["headers"]["argsrepr"] = one["headers"]["kwargsrepr"] = None
    assert neutral(ours) == neutral(theirs)
    assert not outbox.chords


def test_chunks_are_a_group_of_starmaps(tasks, outbox: Outbox) -> None:
    parts = tasks.add.chunks(zip(range(5), range(5), strict=True), 2)

    assert [one.kwargs["it"] for one in parts.group().tasks] == [[(0, 0), (1, 1)], [(2, 2), (3, 3)], [(4, 4)]]
    assert parts().results
    assert chunks.apply_chunks(tasks.add.s(), [(1, 1)], 5).results
    assert [one["headers"]["task"] for one in outbox.messages()] == ["celery.starmap"] * 4


def test_maps_go_where_their_tasks_go(register, outbox: Outbox) -> None:
    app = Celery("routed", broker="sqlite:///unused.db", task_routes={"demo.add": "sums"})
    tasks = register(app)

    tasks.add.map([1, 2]).apply_async()
    xstarmap(tasks.add.s(), [(1, 1)]).delay()
    tasks.add.chunks([(1, 1)], 1).apply_async()
    group(tasks.add.starmap([(1, 1)]), tasks.echo.s()).apply_async()

    assert [one["place"][1] for one in outbox.messages()] == ["sums", "sums", "sums", "sums", "celery"]


def test_eager_workflows_give_values(tasks) -> None:
    app = tasks.add.app
    app.conf.task_always_eager = True
    add, total, echo = tasks.add, tasks.total, tasks.echo

    assert group(add.s(1, 1), group(add.s(2, 2), add.s(3, 3)))().get() == [2, 4, 6]
    assert chord([add.s(i, i) for i in range(3)], total.s() | add.s(1))().get() == 7
    assert (group(add.s(1, 1), add.s(2, 2)) | group(total.s(), echo.s()))().get() == [6, [[[2, 4]], {}]]
    assert chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s()).delay().get() == 7
    assert chord([], total.s())().get() == 0
    assert app.tasks["celery.map"].delay(echo.s(), [1, 2]).get() == [[[1], {}], [[2], {}]]
    assert add.starmap([(1, 1), (2, 2)]).delay().get() == [2, 4]
    assert add.chunks([(1, 1), (2, 2), (3, 3)], 2)().get() == [[2, 4], [6]]
    assert ~chord([add.s(1, 1)], total.s()) == 2


def test_a_replaced_eager_task_gives_what_replaces_it(tasks) -> None:
    @tasks.add.app.task(bind=True)
    def spread(self, n):
        return self.replace(group(tasks.add.s(i, i) for i in range(n)))

    assert spread.apply((3,)).get() == [0, 2, 4]


def nested(tasks: Any, depth: int, where: str) -> Any:
    inner: Any = tasks.add.s(1, 1)
    for _ in range(depth):
        match where:
            case "header":
                inner = chord([inner, tasks.add.s(1, 1)], tasks.total.s())
            case "body":
                inner = chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], inner)
            case "both":
                inner = chord([inner, tasks.add.s(1, 1)], chain(tasks.total.s(), group(tasks.add.s(1), tasks.add.s(2))))
            case "chain":
                inner = chain(tasks.add.si(1, 1), group(tasks.add.s(1), tasks.add.s(2)), tasks.total.s()) | inner
            case "tail":
                inner = chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], chain(tasks.total.s(), inner))
    return inner


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("where", ["header", "body", "both", "chain", "tail"])
def test_messages_grow_with_the_number_of_tasks(where: str, frozen: bool, tasks, outbox: Outbox) -> None:
    def largest(depth: int) -> int:
        whole = nested(tasks, depth, where)
        if frozen:
            whole.freeze()
        outbox.sent.clear()
        whole.apply_async()
        return max(len(one.body) for one in outbox.sent)

    six, twelve = largest(6), largest(12)

    assert twelve < 2.5 * six
    assert twelve < 40_000


def test_a_message_that_no_worker_takes_is_refused_with_its_largest_part(tasks, outbox: Outbox) -> None:
    tasks.add.app.conf.worker_max_message_bytes = 100_000
    big = "x" * 150_000

    with pytest.raises(
        EncodeError, match=r"150\d\d\d bytes.*allows 100000.*largest part of it is args\[0\] with 150002"
    ):
        tasks.echo.delay(big, 2)
    with pytest.raises(EncodeError, match=r"largest part of it is kwargs\['big'\]"):
        tasks.echo.delay(small=1, big=big)
    with pytest.raises(EncodeError, match=r"largest part of it is chain\[0\]\['args'\]\[0\] with 150002"):
        chain(tasks.add.s(1, 1), tasks.add.s(2), tasks.echo.s(big), app=tasks.add.app).apply_async()
    with pytest.raises(EncodeError, match=r"largest part of it is chord\['kwargs'\]\['tasks'\]"):
        chord([tasks.add.s(1, 1)], group(tasks.add.s(i) for i in range(2000))).apply_async()
    for _ in range(3):
        tasks.echo.delay("small")
    with pytest.raises(EncodeError, match="largest part"):
        tasks.echo.delay(big)

    assert len(outbox.sent) == 3


def test_overridden_sending_is_called_for_members(tasks, outbox: Outbox) -> None:
    seen = []

    class Counting(Task):
        def apply_async(self, *args, **options):
            seen.append(self.name)
            return super().apply_async(*args, headers={"seen": True}, **options)

    counted = tasks.add.app.task(name="demo.counted", base=Counting)(lambda *args: args)
    whole = chord([counted.s(1), counted.s(2) | tasks.echo.s()], counted.s())

    whole.apply_async()

    assert seen == ["demo.counted"] * 2
    assert all(one["headers"]["seen"] for one in outbox.messages())


def test_signals_tell_of_every_message(tasks, outbox: Outbox) -> None:
    told = []
    after_task_publish.connect(receiver := lambda sender, **_: told.append(sender), weak=False)
    try:
        group(tasks.add.s(1, 1), tasks.echo.s()).apply_async()
    finally:
        after_task_publish.disconnect(receiver)

    assert told == ["demo.add", "demo.echo"]


def test_coroutines_send_workflows(tmp_path) -> None:
    url = f"memory://{tmp_path.name}"
    with Celery("coroutines", broker=url, backend=url) as app:

        @app.task
        def add(x, y):
            return x + y

        async def send() -> Any:
            pair = await group(add.s(1, 1), add.s(2, 2)).aapply_async()
            last = await chain(add.s(1, 1), add.s(2)).aapply_async()
            mapped = await add.starmap([(1, 1)]).aapply_async()
            return pair, last, mapped

        pair, last, mapped = asyncio.run(send())

        assert len(pair) == 2
        assert last.parent is not None
        assert mapped.id
        assert app.client.queues()[0]["ready"] == 4


def test_workflows_are_sent_among_many(tasks, outbox: Outbox) -> None:
    app = tasks.add.app
    results = app.send_many(
        [tasks.add.s(1, 1), group(tasks.add.s(2, 2), tasks.add.s(3, 3)), chord([tasks.add.s(4, 4)], tasks.total.s())]
    )

    assert [type(one).__name__ for one in results] == ["AsyncResult", "GroupResult", "AsyncResult"]
    assert [one["body"][0] for one in outbox.messages()] == [[1, 1], [2, 2], [3, 3], [4, 4]]
    assert [size for _, size in outbox.chords] == [1]


class Running:
    """A task that runs in a worker, whose messages are kept."""

    def __init__(self, task: Any, **request: Any) -> None:
        self.task = task
        self.request = request

    def __enter__(self) -> Any:
        from celeriac import _state

        fields = {"id": "running", "root_id": "root", "called_directly": False, "delivery_info": {}, "_follow_ups": []}
        self.task.push_request({**fields, **self.request})
        _state.push_current_task(self.task)
        return self.task.request

    def __exit__(self, *_: object) -> None:
        from celeriac import _state

        _state.pop_current_task()
        self.task.pop_request()


def test_a_replacement_takes_over_id_group_and_what_follows(tasks, outbox: Outbox) -> None:
    later = json.loads(json.dumps([tasks.echo.s("last").set(task_id="l"), tasks.echo.s("next").set(task_id="n")]))
    errback = json.loads(json.dumps(tasks.errback_old.s()))
    place = {"group": "g", "group_index": 3, "errbacks": [errback], "chain": later, "replaced_task_nesting": 1}

    with Running(tasks.add, **place) as request, pytest.raises(Ignore):
        tasks.add.replace(tasks.add.s(5, 5))

    (sent,) = request._follow_ups
    assert sent.headers["id"] == "running"
    assert (sent.headers["root_id"], sent.headers["replaced_task_nesting"]) == ("root", 2)
    assert (sent.headers["group"], sent.headers["group_index"]) == ("g", 3)
    follows = json.loads(sent.body)[2]
    assert [one["options"]["task_id"] for one in follows["chain"]] == ["l", "n"]
    assert all(one["options"]["replaced_task_nesting"] == 2 for one in follows["chain"])
    assert [one["task"] for one in follows["errbacks"]] == ["demo.errback_old"]
    assert not outbox.sent


def test_a_group_that_replaces_a_task_ends_under_its_id(tasks, outbox: Outbox) -> None:
    body = json.loads(json.dumps(tasks.total.s().set(task_id="b")))

    with Running(tasks.add, group="g", group_index=1, chord=body) as request, pytest.raises(Ignore):
        tasks.add.replace(group(tasks.add.s(1, 1), tasks.add.s(2, 2)))

    ends = [json.loads(one.body)[2]["chord"] for one in request._follow_ups]
    assert [one["task"] for one in ends] == ["celery.accumulate"] * 2
    options = ends[0]["options"]
    assert (options["task_id"], options["group_id"], options["group_index"]) == ("running", "g", 1)
    assert options["chord"]["options"]["task_id"] == "b"
    assert [size for _, size in outbox.chords] == [2]


def test_what_cannot_replace_a_task_is_refused(tasks) -> None:
    with Running(tasks.add):
        with pytest.raises(ImproperlyConfigured, match="part of a chord"):
            tasks.add.replace(tasks.add.s().set(chord=tasks.total.s()))
        with pytest.raises(ImproperlyConfigured, match="empty chain"):
            tasks.add.replace(chain(app=tasks.add.app))
        with pytest.raises(ValueError, match="not in the header of a chord"):
            tasks.add.add_to_chord(tasks.add.s(1, 1))


def test_a_task_adds_parts_to_its_chord(tasks, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from celeriac.app import chords

    grown = []
    monkeypatch.setattr(chords, "grow_chord", lambda app, group_id: grown.append(group_id))
    body = json.loads(json.dumps(tasks.total.s().set(task_id="b")))

    with Running(tasks.add, group="g", group_index=0, chord=body) as request:
        result = tasks.add.add_to_chord(tasks.add.s(5, 5))
        kept = tasks.add.add_to_chord(tasks.add.s(6, 6), lazy=True)

    (sent,) = request._follow_ups
    assert sent.headers["id"] == result.id
    assert sent.headers["group"] == "g"
    assert json.loads(sent.body)[2]["chord"]["options"]["task_id"] == "b"
    assert isinstance(kept, Signature)
    assert grown == ["g", "g"]


def test_built_in_tasks_are_registered(tasks) -> None:
    names = ["accumulate", "backend_cleanup", "chain", "chord", "chord_unlock", "chunks", "group", "map", "starmap"]
    built_in = tasks.add.app.tasks

    assert all(f"celery.{name}" in built_in for name in names)
    assert built_in["celery.accumulate"](1, 2) == (1, 2)
    assert built_in["celery.accumulate"]([1], index=0) == [1]
    with pytest.raises(NotImplementedError):
        built_in["celery.chain"]()


def test_signatures_of_names_can_be_members(tasks, outbox: Outbox) -> None:
    app = tasks.add.app
    chord([signature("not.here", (1,), app=app)], signature("not.there", app=app)).apply_async()

    (message,) = outbox.messages()
    assert message["headers"]["task"] == "not.here"
    assert message["body"][2]["chord"]["task"] == "not.there"


def test_the_guide_says_what_happens() -> None:
    guide = (Path(__file__).parents[4] / "docs/canvas.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    names: dict[str, Any] = {"__name__": "sums"}
    compared = 0

    for block in blocks:
        # Sent nowhere: it is eager from the first block on.
        exec(block, names)
        names["app"].conf.task_always_eager = True
        for line in re.findall(r"^(~.*?)\s+# (.*)$", block, re.MULTILINE):
            assert repr(eval(line[0], names)) == line[1]
            compared += 1

    assert compared == 6
    assert names["sums"].delay(3).get() == [0, 2, 4]
    assert names["flow"].body.options["tenant"] == "acme"
