"""Pictures: places that do not overlap, DOT, SVG that any XML parser reads."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from xml.etree import ElementTree

import pytest

from celeriac.utils.layered import Layout, arrange
from celeriac.utils.picture import Look, Picture

SVG = "{http://www.w3.org/2000/svg}"


def lay_out(count: int, edges: Sequence[tuple[int, int]]) -> tuple[dict[Hashable, tuple[float, float]], Layout]:
    sizes: dict[Hashable, tuple[float, float]] = {n: (40.0 + 10 * (n % 5), 30.0) for n in range(count)}
    return sizes, arrange(sizes, edges)


@pytest.mark.parametrize("seed", range(10))
def test_no_two_boxes_overlap_and_arrows_lead_to_the_right(seed: int) -> None:
    rng = random.Random(seed)
    count = 40
    edges = [(a, b) for a in range(count) for b in range(a + 1, count) if rng.random() < 0.06]
    sizes, layout = lay_out(count, edges)

    boxes = [(x - sizes[n][0] / 2, y - sizes[n][1] / 2, *sizes[n]) for n, (x, y) in layout.places.items()]
    assert len(boxes) == count
    for number, (x, y, width, height) in enumerate(boxes):
        assert x >= -0.01
        assert y >= -0.01
        assert x + width <= layout.width + 0.01
        assert y + height <= layout.height + 0.01
        for ox, oy, owidth, oheight in boxes[:number]:
            assert x >= ox + owidth or ox >= x + width or y >= oy + oheight or oy >= y + height
    for edge in edges:
        way = [layout.places[edge[0]], *layout.bends[edge], layout.places[edge[1]]]
        assert [x for x, _ in way] == sorted(x for x, _ in way)


def test_a_line_of_boxes_is_straight_and_a_tree_needs_no_crossing() -> None:
    _, line = lay_out(5, [(0, 1), (1, 2), (2, 3), (3, 4)])
    assert len({y for _, y in line.places.values()}) == 1

    _, tree = lay_out(7, [(0, 1), (0, 2), (1, 5), (2, 3), (2, 4), (1, 6)])
    children = sorted((3, 4, 5, 6), key=lambda node: tree.places[node][1])
    assert set(children[:2]) in ({3, 4}, {5, 6})


def test_circles_and_nothing_at_all_are_drawn_too() -> None:
    assert lay_out(0, [])[1].places == {}
    assert len(lay_out(3, [(0, 1), (1, 2), (2, 0), (1, 1)])[1].places) == 3
    picture = Picture()
    picture.box("a", "a")
    picture.box("b", "b")
    picture.arrow("a", "b")
    picture.arrow("b", "a")
    ElementTree.fromstring(picture.to_svg())


def test_svg_shows_every_text_as_it_is() -> None:
    picture = Picture("x < y & z")
    picture.box("a", "shop.add", "(\"<b>\", '&')", look=Look("#fff", '"#000'), hint="all of <it>")
    picture.box("b")
    picture.arrow("a", "b", "a > b", broken=True)

    root = ElementTree.fromstring(picture.to_svg())

    assert [text.text for text in root.iter(f"{SVG}text")] == ["a > b", "shop.add", "(\"<b>\", '&')"]
    assert [title.text for title in root.iter(f"{SVG}title")] == ["x < y & z", "all of <it>"]
    assert len(list(root.iter(f"{SVG}circle"))) == 1
    (way,) = (path for path in root.iter(f"{SVG}path") if path.get("marker-end"))
    assert way.get("stroke-dasharray")


def test_dot_has_the_same_boxes_and_arrows() -> None:
    picture = Picture()
    picture.box("a", "one", 'say "x"')
    picture.box("a", "comes again")
    picture.box("b", look=Look(broken=True))
    picture.arrow("a", "b", "then", "#b91c1c", broken=True)
    picture.arrow("a", "b")

    lines = picture.to_dot().splitlines()

    assert any(line.startswith('    "a" [label="one\\nsay \\"x\\""') for line in lines)
    assert [line for line in lines if "->" in line] == ['    "a" -> "b" [color="#b91c1c", label="then", style=dashed];']
    assert (picture.boxes, picture.arrows, picture.lines("a")) == (["a", "b"], [("a", "b")], ("one", 'say "x"'))


def test_a_thousand_boxes_are_drawn() -> None:
    picture = Picture()
    picture.box("end", "end")
    for number in range(1_000):
        picture.box(str(number), f"task {number}")
        picture.arrow(str(number), "end")

    assert picture.to_svg().count("<rect") == 1_002
