"""Pictures of what ran: shape and states as records tell them."""

from __future__ import annotations

import json
from typing import Any

from celeriac import Celery
from celeriac._core import ResultRecord
from celeriac.result import AsyncResult, GroupResult
from celeriac.result.picture import LOOKS, picture_of_result
from celeriac.utils.picture import Picture


def store(app: Celery, task_id: str, state: str = "SUCCESS", **more: Any) -> None:
    document = {"status": state, "result": None, "traceback": None, "children": [], "task_id": task_id, **more}
    app.client.store([ResultRecord(task_id, state, json.dumps(document).encode(), "application/json")])


def arrows(picture: Picture) -> list[str]:
    return sorted(f"{start} > {end}" for start, end in picture.arrows)


def test_a_chain_is_drawn_from_any_of_its_tasks(app: Celery) -> None:
    b = AsyncResult("b", app=app, parent=AsyncResult("a", app=app))
    c = AsyncResult("c", app=app, parent=b)
    store(app, "a", children=[b.as_tuple()], name="shop.first")
    store(app, "b", "STARTED", result={"pid": 1}, children=[c.as_tuple()], parent_id="a")

    for asked in ("a", "b"):
        picture = picture_of_result(AsyncResult(asked, app=app), app)

        assert arrows(picture) == ["a > b", "b > c"]
        assert picture.lines("a") == ("shop.first", "a", "SUCCESS")
        assert picture.lines("c") == ("c", "PENDING")
        looks = [picture.look(key) for key in ("a", "b", "c")]
        assert looks == [LOOKS["SUCCESS"], LOOKS["STARTED"], LOOKS["PENDING"]]


def test_a_result_that_knows_its_parents_is_drawn_with_them(app: Celery) -> None:
    first: AsyncResult[Any] = AsyncResult("first", app=app)
    header = GroupResult("g", [AsyncResult("a", app=app), AsyncResult("b", app=app)], parent=first, app=app)
    body: AsyncResult[Any] = AsyncResult("body", app=app, parent=header)
    store(app, "a")
    failure = {"exc_type": "KeyError", "exc_message": ["x"], "exc_module": "builtins"}
    store(app, "b", "FAILURE", result=failure)

    picture = picture_of_result(body, app)

    assert arrows(picture) == ["a > body", "b > body", "first > a", "first > b"]
    assert picture.look("b") == LOOKS["FAILURE"]
    assert "KeyError" in picture.to_svg()


def test_a_chord_that_a_task_sent_is_drawn_with_its_header(app: Celery) -> None:
    header = GroupResult("g", [AsyncResult("a", app=app), AsyncResult("b", app=app)], app=app)
    body: AsyncResult[Any] = AsyncResult("body", app=app, parent=header)
    store(app, "first", children=[body.as_tuple()])

    picture = picture_of_result(AsyncResult("first", app=app), app)

    assert arrows(picture) == ["a > body", "b > body", "first > a", "first > b"]


def test_a_whole_workflow_is_drawn_from_the_id_of_its_last_task(app: Celery) -> None:
    """`first | group(a | b, c) | body | last`, as workers write its records."""
    b = AsyncResult("b", app=app, parent=AsyncResult("a", app=app))
    header = GroupResult("g", [b, AsyncResult("c", app=app)], app=app)
    store(app, "first", children=[header.as_tuple()])
    store(app, "a", parent_id="first", children=[[["b", None], None]])
    store(app, "b", parent_id="a", group_id="g")
    store(app, "c", parent_id="first", group_id="g")
    store(app, "body", parent_id="c", group_id="g", children=[[["last", None], None]])
    store(app, "last", parent_id="body")
    whole = ["a > b", "b > body", "body > last", "c > body", "first > a", "first > c"]

    assert arrows(picture_of_result(AsyncResult("last", app=app), app)) == whole
    # Also where the records of children do not say what came before them.
    store_again = GroupResult("g", [AsyncResult("b", app=app), AsyncResult("c", app=app)], app=app)
    app.client.forget(["first"])
    store(app, "first", children=[store_again.as_tuple()])
    assert arrows(picture_of_result(AsyncResult("last", app=app), app)) == whole


def test_members_that_are_chains_are_drawn_from_their_beginning(app: Celery) -> None:
    first: AsyncResult[Any] = AsyncResult("first", app=app)
    b = AsyncResult("b", app=app, parent=AsyncResult("a", app=app))
    header = GroupResult("g", [b, AsyncResult("c", app=app)], parent=first, app=app)

    picture = picture_of_result(AsyncResult("body", app=app, parent=header), app)

    assert arrows(picture) == ["a > b", "b > body", "c > body", "first > a", "first > c"]


def test_of_a_large_group_some_are_drawn_and_groups_meet_in_a_dot(app: Celery) -> None:
    many = GroupResult("g", [AsyncResult(f"t{n}", app=app) for n in range(100)], app=app)
    after = GroupResult("h", [AsyncResult("x", app=app), AsyncResult("y", app=app)], parent=many, app=app)

    picture = picture_of_result(after, app, most=3)

    assert picture.lines("…g") == ("… 98 more",)
    assert arrows(picture) == ["g>h > x", "g>h > y", "t0 > g>h", "t1 > g>h", "…g > g>h"]
    assert len(picture_of_result(after, app, most=0).arrows) == 102


def test_records_that_lead_in_a_circle_end(app: Celery) -> None:
    store(app, "a", children=[[["b", None], None]], parent_id="b")
    store(app, "b", children=[[["a", None], None]], parent_id="a")

    assert arrows(picture_of_result(AsyncResult("a", app=app), app)) == ["a > b", "b > a"]
