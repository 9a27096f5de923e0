"""Where the nodes of a small graph go: in columns from left to right, with few crossings.

The usual steps of a layered drawing: columns by the longest way from a start, stand-ins where an edge passes a column,
the order in each column by the middle of its neighbours, then places as near to those as the order allows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

__all__ = ["Layout", "arrange"]

T = TypeVar("T", bound=Hashable)

#: How often the order and the places are improved.
_SWEEPS = 8
_COLUMN_GAP = 56.0
_ROW_GAP = 18.0
#: The height of a stand-in.
_THIN = 16.0


class Layout(NamedTuple):
    """Places in pixels: of nodes the middle, of edges the points between their ends."""

    width: float
    height: float
    places: dict[Hashable, tuple[float, float]]
    bends: dict[tuple[Hashable, Hashable], list[tuple[float, float]]]


class _StandIn(NamedTuple):
    """An edge where it passes a column."""

    edge: tuple[Hashable, Hashable]
    column: int


def arrange(sizes: Mapping[Hashable, tuple[float, float]], edges: Sequence[tuple[Hashable, Hashable]]) -> Layout:
    """Finds a place for every node.

    Args:
        sizes: Width and height of each node, in the order in which equal ones come from top to bottom.
        edges: Pairs of nodes. Edges of a circle that lead back are drawn, but do not count.
    """
    column = _columns(list(sizes), edges)
    columns: list[list[Hashable]] = [[] for _ in range(max(column.values(), default=-1) + 1)]
    for node in sizes:
        columns[column[node]].append(node)
    before: dict[Hashable, list[Hashable]] = defaultdict(list)
    after: dict[Hashable, list[Hashable]] = defaultdict(list)
    passing: dict[tuple[Hashable, Hashable], list[_StandIn]] = {}
    for edge in dict.fromkeys(edges):
        way: list[Hashable] = [edge[0]]
        stand_ins = [_StandIn(edge, at) for at in range(column[edge[0]] + 1, column[edge[1]])]
        for stand_in in stand_ins:
            columns[stand_in.column].append(stand_in)
            way.append(stand_in)
        way.append(edge[1])
        passing[edge] = stand_ins
        for one, other in pairwise(way):
            after[one].append(other)
            before[other].append(one)
    heights = {node: sizes[node][1] if node in sizes else _THIN for nodes in columns for node in nodes}
    y = _rows(columns, before, after, heights)
    x: list[float] = []
    edge_of_column = 0.0
    for nodes in columns:
        widest = max((sizes[node][0] for node in nodes if node in sizes), default=0.0)
        x.append(edge_of_column + widest / 2)
        edge_of_column += widest + _COLUMN_GAP
    bends = {edge: [(x[one.column], y[one]) for one in stand_ins] for edge, stand_ins in passing.items()}
    bottom = max((y[node] + heights[node] / 2 for node in y), default=0.0)
    places = {node: (x[column[node]], y[node]) for node in sizes}
    return Layout(max(0.0, edge_of_column - _COLUMN_GAP), bottom, places, bends)


def _columns(nodes: Sequence[Hashable], edges: Sequence[tuple[Hashable, Hashable]]) -> dict[Hashable, int]:
    """One more than the last of those that lead to it."""
    targets: dict[Hashable, list[Hashable]] = defaultdict(list)
    incoming: dict[Hashable, int] = dict.fromkeys(nodes, 0)
    for one, other in dict.fromkeys(edges):
        if one != other:
            targets[one].append(other)
            incoming[other] += 1
    column = dict.fromkeys(nodes, 0)
    left = dict.fromkeys(nodes)
    ready = [node for node in nodes if incoming[node] == 0]
    while left:
        if not ready:
            # A circle: it is cut where it comes first.
            ready.append(next(iter(left)))
        node = ready.pop()
        if node not in left:
            continue
        del left[node]
        for target in targets[node]:
            incoming[target] -= 1
            if target in left:
                column[target] = max(column[target], column[node] + 1)
                if incoming[target] == 0:
                    ready.append(target)
    return column


def _rows(
    columns: list[list[Hashable]],
    before: Mapping[Hashable, list[Hashable]],
    after: Mapping[Hashable, list[Hashable]],
    heights: Mapping[Hashable, float],
) -> dict[Hashable, float]:
    y: dict[Hashable, float] = {}
    for nodes in columns:
        _stack(nodes, dict.fromkeys(nodes, 0.0), heights, y)
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        neighbours = before if forward else after
        for nodes in columns if forward else reversed(columns):
            middle = {node: _middle([y[other] for other in neighbours.get(node, ())], y[node]) for node in nodes}
            nodes.sort(key=middle.__getitem__)
            _stack(nodes, middle, heights, y)
    top = min((y[node] - heights[node] / 2 for node in y), default=0.0)
    return {node: place - top for node, place in y.items()}


def _middle(places: list[float], otherwise: float) -> float:
    return sum(places) / len(places) if places else otherwise


def _stack(
    nodes: list[Hashable], wanted: Mapping[Hashable, float], heights: Mapping[Hashable, float], y: dict[Hashable, float]
) -> None:
    """Puts nodes below each other in this order, each as near to where it wants to be as the others allow.

    Blocks of nodes that touch each other move as one, to the mean of what their nodes want.
    """
    blocks: list[tuple[float, int, list[tuple[Hashable, float]], float]] = []
    for node in nodes:
        # (sum of the wanted tops, how many, nodes with their offset in the block, height)
        height = heights[node] + _ROW_GAP
        total, count, members, size = wanted[node] - height / 2, 1, [(node, 0.0)], height
        while blocks:
            above = blocks[-1]
            if above[0] / above[1] + above[3] <= total / count:
                break
            blocks.pop()
            shifted = [(member, offset + above[3]) for member, offset in members]
            total = above[0] + total - above[3] * count
            count, members, size = above[1] + count, above[2] + shifted, above[3] + size
        blocks.append((total, count, members, size))
    for total, count, members, _ in blocks:
        for node, offset in members:
            y[node] = total / count + offset + (heights[node] + _ROW_GAP) / 2
