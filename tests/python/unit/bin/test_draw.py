"""`graph workflow` and `graph result`."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from celeriac.result import GroupResult
from celeriac.result.record import build_record

from .conftest import Shop

FLOWS = """
def task(name, **options):
    return {"task": name, "args": [], "kwargs": {}, "options": options, "subtask_type": None, "immutable": False}

flow = {**task("celery.chain"), "subtask_type": "chain", "kwargs": {"tasks": [task("a"), task("b")]}}

def make_flow():
    return flow

def needs(argument):
    return flow

def nothing():
    return None
"""


@pytest.fixture
def flows(shop: Shop) -> Any:
    (shop.folder / "shop_flows.py").write_text(FLOWS)
    yield shop
    import sys

    sys.modules.pop("shop_flows", None)


@pytest.mark.parametrize("path", ["shop_flows:flow", "shop_flows:make_flow", "shop_flows.make_flow"])
def test_a_workflow_is_drawn_from_a_signature_or_from_what_makes_one(flows: Shop, path: str) -> None:
    done = flows.run("graph", "workflow", path)

    assert done.exit_code == 0, done.output
    assert '"n1" -> "n2"' in done.stdout
    assert done.stdout.startswith("digraph")


def test_the_form_goes_by_the_option_or_by_the_name_of_the_file(flows: Shop) -> None:
    svg = flows.run("graph", "workflow", "shop_flows:flow", "--format", "svg").stdout
    ElementTree.fromstring(svg)

    assert flows.run("graph", "workflow", "shop_flows:flow", "-o", "flow.svg").stdout == ""
    assert (flows.folder / "flow.svg").read_text() == svg
    flows.run("graph", "workflow", "shop_flows:flow", "-o", "flow.dot")
    assert (flows.folder / "flow.dot").read_text().startswith("digraph")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("shop_flows:missing", "cannot be found"),
        ("no_such_module:flow", "cannot be found"),
        ("flow", "cannot be found"),
        ("shop_flows:needs", "cannot be called without arguments"),
        ("shop_flows:nothing", "made of a signature"),
        ("shop_flows:FILES", "cannot be found"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_a_line(flows: Shop, path: str, told: str) -> None:
    done = flows.run("graph", "workflow", path)

    assert done.exit_code == 2
    assert told in done.stderr
    assert "Hint:" in done.stderr


def test_a_result_is_drawn_by_the_id_of_a_task_or_of_a_saved_group(shop: Shop) -> None:
    app = shop.app
    app.client.store([build_record(app, "t1", "SUCCESS", 1), build_record(app, "t2", "FAILURE", KeyError("x"))])
    GroupResult("g", [app.AsyncResult("t1"), app.AsyncResult("t2")], app=app).save()

    one = shop.run("graph", "result", "t1").stdout
    both = shop.run("graph", "result", "g").stdout

    assert ('"t1"' in one, '"t2"' in one) == (True, False)
    assert ("SUCCESS" in both, "FAILURE" in both) == (True, True)
    unknown = shop.run("graph", "result", "nobody")
    assert unknown.exit_code == 1
    assert "nothing is stored for nobody" in unknown.stderr
