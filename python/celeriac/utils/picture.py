"""A picture of a workflow: boxes and arrows, as DOT (for Graphviz) and as SVG (without it)."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from celeriac.utils.graph import quoted
from celeriac.utils.layered import Layout, arrange

__all__ = ["Look", "Picture"]

_MARGIN = 16.0
_LINE = 16.0
_PADDING = 10.0
#: Of a letter of the font, which is one of equal widths.
_LETTER = 7.25
_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_INK = "#1f2937"


class Look(NamedTuple):
    """Colours of a box."""

    fill: str = "#eef2f7"
    stroke: str = "#64748b"
    #: Drawn with a broken line: not there yet, or left out.
    broken: bool = False


class _Box(NamedTuple):
    lines: tuple[str, ...]
    look: Look
    hint: str

    @property
    def size(self) -> tuple[float, float]:
        if not self.lines:
            return 8.0, 8.0
        letters = max(map(len, self.lines))
        return letters * _LETTER + 2 * _PADDING, len(self.lines) * _LINE + _PADDING


class _Arrow(NamedTuple):
    label: str
    stroke: str
    broken: bool


class Picture:
    """Boxes and the arrows between them. Boxes and arrows are added once; what comes again is left out.

    Args:
        name: Of the whole.
    """

    def __init__(self, name: str = "workflow") -> None:
        self.name = name
        self._boxes: dict[str, _Box] = {}
        self._arrows: dict[tuple[str, str], _Arrow] = {}

    def box(self, key: str, *lines: str, look: Look | None = None, hint: str = "") -> str:
        """A box with lines of text, or without any a dot where arrows meet; gives its key."""
        self._boxes.setdefault(key, _Box(lines, look or Look(), hint))
        return key

    def arrow(self, start: str, end: str, label: str = "", stroke: str = _INK, broken: bool = False) -> None:
        """An arrow between two boxes."""
        self._arrows.setdefault((start, end), _Arrow(label, stroke, broken))

    @property
    def boxes(self) -> list[str]:
        """The keys of all boxes."""
        return list(self._boxes)

    @property
    def arrows(self) -> list[tuple[str, str]]:
        """Start and end of all arrows."""
        return list(self._arrows)

    def lines(self, key: str) -> tuple[str, ...]:
        """What is written in a box."""
        return self._boxes[key].lines

    def look(self, key: str) -> Look:
        """The colours of a box."""
        return self._boxes[key].look

    def to_dot(self) -> str:
        """The picture in the DOT language."""
        out = [f"digraph {quoted(self.name)} {{", "    rankdir=LR;"]
        out.append('    node [shape=box, style="rounded,filled", fontname="monospace", fontsize=11];')
        for key, box in self._boxes.items():
            label = quoted("\n".join(box.lines))
            style = ', style="rounded,filled,dashed"' if box.look.broken else ""
            shape = "" if box.lines else ", shape=point"
            colours = f'fillcolor="{box.look.fill}", color="{box.look.stroke}"'
            out.append(f"    {quoted(key)} [label={label}, {colours}{style}{shape}];")
        for (start, end), arrow in self._arrows.items():
            label = f", label={quoted(arrow.label)}" if arrow.label else ""
            style = ", style=dashed" if arrow.broken else ""
            out.append(f'    {quoted(start)} -> {quoted(end)} [color="{arrow.stroke}"{label}{style}];')
        return "\n".join([*out, "}", ""])

    def to_svg(self) -> str:
        """The picture as SVG."""
        layout = arrange({key: box.size for key, box in self._boxes.items()}, list(self._arrows))
        width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
        strokes = sorted({arrow.stroke for arrow in self._arrows.values()})
        out = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
                f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{_FONT}" font-size="12" fill="{_INK}">'
            ),
            f"<title>{escape(self.name)}</title>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            "<defs>",
        ]
        for number, stroke in enumerate(strokes):
            out.append(
                f'<marker id="tip{number}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
                f'orient="auto" markerUnits="userSpaceOnUse"><path d="M0 0 8 4 0 8z" fill="{stroke}"/></marker>'
            )
        out.append("</defs>")
        for edge, arrow in self._arrows.items():
            out += self._drawn_arrow(layout, edge, arrow, strokes.index(arrow.stroke))
        for key, box in self._boxes.items():
            out += _drawn_box(box, *layout.places[key])
        return "\n".join([*out, "</svg>", ""])

    def _drawn_arrow(self, layout: Layout, edge: tuple[str, str], arrow: _Arrow, tip: int) -> list[str]:
        (x, y), (end_x, end_y) = layout.places[edge[0]], layout.places[edge[1]]
        start_half, end_half = self._boxes[edge[0]].size[0] / 2, self._boxes[edge[1]].size[0] / 2
        if x >= end_x:
            # Leads back: around the outside would be longer than it is worth for what does not happen in workflows.
            start_half, end_half = -start_half, -end_half
        points = [(x + start_half, y), *layout.bends[edge], (end_x - end_half, end_y)]
        shifted = [(px + _MARGIN, py + _MARGIN) for px, py in points]
        way = f"M{shifted[0][0]:.1f} {shifted[0][1]:.1f}"
        for (ax, ay), (bx, by) in pairwise(shifted):
            middle = (ax + bx) / 2
            way += f"C{middle:.1f} {ay:.1f} {middle:.1f} {by:.1f} {bx:.1f} {by:.1f}"
        dashes = ' stroke-dasharray="4 3"' if arrow.broken else ""
        out = [f'<path d="{way}" fill="none" stroke="{arrow.stroke}"{dashes} marker-end="url(#tip{tip})"/>']
        if arrow.label:
            (ax, ay), (bx, by) = shifted[0], shifted[1]
            out.append(
                f'<text x="{(ax + bx) / 2:.1f}" y="{(ay + by) / 2 - 5:.1f}" text-anchor="middle" font-size="10" '
                f'fill="{arrow.stroke}" stroke="#ffffff" stroke-width="3" paint-order="stroke">{escape(arrow.label)}</text>'
            )
        return out


def _drawn_box(box: _Box, x: float, y: float) -> list[str]:
    x, y = x + _MARGIN, y + _MARGIN
    width, height = box.size
    if not box.lines:
        return [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width / 2:.1f}" fill="{box.look.stroke}"/>']
    dashes = ' stroke-dasharray="4 3"' if box.look.broken else ""
    out = [
        "<g>",
        f"<title>{escape(box.hint or ' '.join(box.lines))}</title>",
        (
            f'<rect x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6" '
            f"fill={quoteattr(box.look.fill)} stroke={quoteattr(box.look.stroke)}{dashes}/>"
        ),
    ]
    first = y - (len(box.lines) - 1) * _LINE / 2 + 4
    for number, line in enumerate(box.lines):
        place = f'x="{x:.1f}" y="{first + number * _LINE:.1f}" text-anchor="middle"'
        weight = ' font-weight="600"' if number == 0 and len(box.lines) > 1 else ""
        out.append(f"<text {place}{weight}>{escape(line)}</text>")
    return [*out, "</g>"]
