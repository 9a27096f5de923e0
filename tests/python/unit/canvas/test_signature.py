"""Signatures and chains as values; their messages are checked in test_send."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from celeriac import Celery, chain, maybe_signature, signature
from celeriac.canvas import Signature


@pytest.fixture
def app(tmp_path) -> Any:
    url = f"memory://{tmp_path.name}"
    with Celery("unit", broker=url, backend=url) as app:
        yield app


@pytest.fixture
def add(app: Celery) -> Any:
    @app.task(name="add")
    def add(x, y, z=0):
        return x + y + z

    return add


def test_a_signature_is_celerys_dict(add) -> None:
    assert dict(add.s(1, y=2).set(queue="q")) == {
        "task": "add",
        "args": (1,),
        "kwargs": {"y": 2},
        "options": {"queue": "q"},
        "subtask_type": None,
        "immutable": False,
    }
    assert list(add.s()) == ["task", "args", "kwargs", "options", "subtask_type", "immutable"]


def test_its_items_are_attributes_that_can_be_set(add) -> None:
    sig = add.s(1)

    sig.args, sig.kwargs, sig.immutable, sig.id, sig.task = (2, 3), {"z": 4}, True, "mine", "other"
    sig.options["queue"] = "q"

    assert dict(sig) == {
        "task": "other",
        "args": (2, 3),
        "kwargs": {"z": 4},
        "options": {"task_id": "mine", "queue": "q"},
        "subtask_type": None,
        "immutable": True,
    }
    assert (sig.id, sig.root_id, sig.name) == ("mine", None, "other")
    assert Signature.options.__doc__ == "Options of `apply_async`."


def test_partial_arguments_come_first_and_keywords_and_options_win(add) -> None:
    partial = add.s(2, z=1).set(queue="a", priority=1)

    clone = partial.clone((1,), {"z": 5}, queue="b")

    assert (clone.args, clone.kwargs, clone.options) == ((1, 2), {"z": 5}, {"queue": "b", "priority": 1})
    assert (partial.args, partial.kwargs, partial.options) == ((2,), {"z": 1}, {"queue": "a", "priority": 1})
    assert partial(1) == 4
    assert partial.apply((1,), {"z": 0}).get() == 3


def test_an_immutable_signature_takes_options_but_no_arguments(add) -> None:
    fixed = add.si(2, 2)

    assert fixed.clone((9,), {"z": 9}, queue="b") == {**fixed, "options": {"queue": "b"}}
    assert fixed.apply((9,)).get() == 4


def test_group_ids_and_stamps_of_a_signature_are_kept(add) -> None:
    stamped = add.s(1, 1).set(group_id="g", stamped_headers=["trace"], trace="abc")

    clone = stamped.clone((), {}, group_id="other", trace="other", stamped_headers=["x"])

    assert clone.options == {"group_id": "g", "stamped_headers": ["trace"], "trace": "abc"}
    assert stamped.build().headers["stamps"] == {"trace": "abc"}


def test_clones_share_nothing_that_can_change(add) -> None:
    original = add.s(1, 1).on_error(add.s())

    clone = original.clone()
    clone.link_error(add.s(5))
    clone.set(queue="b")

    assert len(original.options["link_error"]) == 1
    assert "queue" not in original.options
    assert copy.deepcopy(original) == original


def test_links_are_added_once(add) -> None:
    sig = add.s(1, 1)

    assert sig.link(add.s(2)) == add.s(2)
    sig.link(add.s(2))
    sig.link(add.s(3))

    assert sig.options["link"] == [add.s(2), add.s(3)]
    assert sig.flatten_links() == [sig, add.s(2), add.s(3)]


@pytest.mark.parametrize("through", ["json", "pickle"])
def test_a_signature_survives(through: str, add, app: Celery) -> None:
    sig = add.s(1).set(link=[add.s(2)]) | add.si(5, 5)

    if through == "json":
        back = maybe_signature(json.loads(json.dumps(sig)), app=app)
        assert json.dumps(back) == json.dumps(sig)
    else:
        app.set_current()
        back = pickle.loads(pickle.dumps(sig))
        assert back == sig
    assert isinstance(back, chain)
    assert [type(step) for step in back.tasks] == [Signature, Signature]
    assert back.apply((1,)).get() == 10


def test_freezing_fixes_the_id(add) -> None:
    sig = add.s(1, 1)

    result = sig.freeze(root_id="r", parent_id="p", group_id="g", group_index=3)

    assert sig.freeze() == result
    assert (sig.id, sig.root_id, sig.parent_id) == (result.id, "r", "p")
    assert sig.options["group_id"] == "g"
    assert sig.build().headers["id"] == result.id


def test_signatures_of_names_need_no_code(app: Celery) -> None:
    result = signature("not.here", args=(1,), countdown=10, app=app).delay(0)

    assert result.id
    assert app.client.queues()[0]["parked"] == 1


def test_the_bar_makes_flat_chains(add) -> None:
    sum_ = add.s(1, 1) | add.s(2) | (add.s(3) | add.s(4))

    assert isinstance(sum_, chain)
    assert len(sum_) == 4
    assert repr(sum_) == "add(1, 1) | add(2) | add(3) | add(4)"
    assert sum_.apply().get() == 11
    with pytest.raises(TypeError):
        _ = add.s(1) | 3


def test_a_chain_gives_the_last_result_with_its_parents(add) -> None:
    steps = chain(add.s(1, 1), add.s(2), add.s(3))

    result = steps.apply_async(task_id="last")

    assert result.id == "last"
    assert result.parent is not None
    assert result.parent.parent is not None
    assert result.parent.parent.parent is None
    assert "task_id" not in steps.tasks[0].options


def test_arguments_and_options_of_a_chain_go_to_its_first_step(add) -> None:
    publication = chain(add.s(2), add.s(3)).build((1,), queue="first", priority=3)

    args, _, embed = json.loads(publication.body)
    assert publication.routing_key == "first"
    assert publication.properties["priority"] == 3
    assert args == [1, 2]
    assert embed["chain"][0]["options"].keys() == {"task_id", "reply_to"}


def test_links_of_a_chain_in_a_chain_stay_with_its_last_step(add) -> None:
    inner = chain(add.s(2), add.s(3))
    inner.link(add.s(99))
    inner.link_error(add.s(98))

    publication = (add.s(1, 1) | inner | add.s(4)).build()

    embed = json.loads(publication.body)[2]
    links = [[link["args"] for link in step["options"].get("link", [])] for step in embed["chain"]]
    errbacks = [[link["args"] for link in step["options"].get("link_error", [])] for step in embed["chain"]]
    assert links == [[], [[99]], []]
    assert errbacks == [[], [[98]], [[98]]]


def test_a_chain_of_one_or_of_a_list(add) -> None:
    assert chain(add.s(1, 1)).apply().get() == 2
    assert chain([add.s(1, 1), add.s(1)]).apply().get() == 3
    assert chain(step for step in [add.s(1, 1), add.s(1)]).apply().get() == 3


def test_an_empty_chain_sends_nothing(add) -> None:
    empty = chain(app=add.app)

    assert empty.apply_async() is None
    assert empty() is None
    with pytest.raises(ValueError, match="not sent as one message"):
        empty.build()


def test_a_failing_step_of_an_eager_chain_raises(add) -> None:
    with pytest.raises(TypeError):
        chain(add.s(1, "x"), add.s(1)).apply()


def test_a_kind_that_nobody_knows_stays_a_signature(app: Celery) -> None:
    found = maybe_signature({"task": "their.own", "kwargs": {}, "subtask_type": "their"}, app=app)

    assert type(found) is Signature
    assert found.subtask_type == "their"


def test_maybe_signature_passes_nothing_and_lists_through(add, app: Celery) -> None:
    assert maybe_signature(None) is None
    sig = add.s(1)
    assert maybe_signature(sig) is sig
    assert maybe_signature(sig, clone=True) is not sig
    assert maybe_signature([dict(sig)], app=app) == [sig]
