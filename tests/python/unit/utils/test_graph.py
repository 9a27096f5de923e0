"""Graphs: order, circles, the DOT language."""

from __future__ import annotations

import io

import pytest

from celeriac.utils.graph import CycleError, DependencyGraph, GraphFormatter


def dot(graph: DependencyGraph[str], formatter: GraphFormatter | None = None) -> list[str]:
    out = io.StringIO()
    graph.to_dot(out, formatter)
    return [line.strip().partition(" [")[0] for line in out.getvalue().splitlines()]


def test_each_comes_after_those_that_it_points_to() -> None:
    graph = DependencyGraph([("a", ["b", "c"]), ("b", ["d"]), ("c", ["d"]), ("d", []), ("e", [])])

    order = graph.topsort()

    assert sorted(order) == ["a", "b", "c", "d", "e"]
    for node in graph:
        assert all(order.index(target) < order.index(node) for target in graph[node])
    assert list(graph.edges()) == ["a", "b", "c"]
    assert graph.valency_of("a") == 4
    assert graph.valency_of("unknown") == 0


def test_a_long_chain_needs_no_recursion() -> None:
    graph = DependencyGraph([(str(n), [str(n + 1)] if n < 20_000 else []) for n in range(20_001)])

    assert graph.topsort()[0] == "20000"


def test_of_a_circle_one_is_given_and_it_cannot_be_measured() -> None:
    graph = DependencyGraph([("a", ["b"]), ("b", ["c"]), ("c", ["b", "d"]), ("d", [])])

    order = graph.topsort()

    assert order[0] == "d"
    assert order[-1] == "a"
    assert len(order) == 3
    with pytest.raises(CycleError, match="points to itself"):
        graph.valency_of("a")


def test_graphs_are_built_step_by_step_and_joined() -> None:
    graph: DependencyGraph[str] = DependencyGraph()
    graph.add_arc("a")
    graph.add_arc("b")
    graph.add_edge("a", "b")
    other: DependencyGraph[str] = DependencyGraph([("c", [])])
    graph.connect(other)

    assert list(graph.items()) == [("a", ["b"]), ("b", []), ("c", [])]
    assert "c" in graph
    assert len(graph) == 3
    assert repr(graph) == "a(1)\n     b(0)\nb(0)\nc(0)"
    with pytest.raises(KeyError):
        graph.add_edge("unknown", "a")


def test_dot_names_every_node_once_and_every_edge() -> None:
    graph = DependencyGraph([('say "x"', ["b"]), ("b", [])])

    assert dot(graph) == ["digraph dependencies {", "graph", '"say \\"x\\""', '"say \\"x\\"" -> "b"', '"b"', "}"]
    assert dot(graph, GraphFormatter(type="graph", id="g"))[3] == '"say \\"x\\"" -- "b"'


def test_a_formatter_may_name_and_colour_things_itself() -> None:
    class Upper(GraphFormatter):
        def label(self, obj: object) -> object:
            return str(obj).upper()

    out = io.StringIO()
    DependencyGraph([("a", ["b"]), ("b", [])], formatter=Upper(root="a", shape="oval")).to_dot(out)

    text = out.getvalue()
    assert '"A" -> "B"' in text
    assert 'root="A"' in text
    assert text.count('shape="oval"') == 4
    assert DependencyGraph([("a", [])], formatter=Upper()).format("a") == "A"
