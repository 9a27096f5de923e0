"""Pictures of workflows that run or have run, from what the result backend knows of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.result.base import client_of, leaves
from celeriac.result.rebuild import result_from_tuple
from celeriac.result.record import read_record
from celeriac.utils.picture import Look, Picture

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["LOOKS", "picture_of_result"]

_MOST = 12
#: States and their colours; other states are a task's own.
LOOKS = {
    states.PENDING: Look("#f8fafc", "#94a3b8", broken=True),
    states.RECEIVED: Look("#f1f5f9", "#64748b"),
    states.STARTED: Look("#dbeafe", "#2563eb"),
    states.RETRY: Look("#ffedd5", "#ea580c"),
    states.SUCCESS: Look("#dcfce7", "#16a34a"),
    states.FAILURE: Look("#fee2e2", "#dc2626"),
    states.REVOKED: Look("#f3e8ff", "#9333ea"),
}
_OWN = Look("#e0f2fe", "#0284c7")
_LEFT_OUT = Look("#ffffff", "#94a3b8", broken=True)


def picture_of_result(result: Any, app: Celery, most: int = _MOST) -> Picture:
    """Draws a result, what led to it and what it led to, each with its state.

    The picture has what records tell: the tasks that a task has sent, its parent, and the members of groups. Names are
    there with `result_extended`.

    Args:
        result: Of a task or a group.
        app: Whose result backend is read: a round trip for each generation of tasks.
        most: How many members of a group are drawn; one box stands for the others. 0 draws all.
    """
    painter = _Painter(app, most)
    painter.follow([*_first(result, painter), result])
    return painter.paint()


def _first(result: Any, painter: _Painter) -> list[Any]:
    """The first of the tasks that led to it, as far as records tell."""
    leaf = next(leaves([result]), None)
    above: list[Any] = []
    while leaf is not None:
        painter.read([leaf])
        parent = painter.documents[leaf.id].get("parent_id")
        if not parent or parent in painter.documents:
            break
        leaf = painter.app.AsyncResult(parent)
        above = [leaf]
    return above


class _Painter:
    def __init__(self, app: Celery, most: int) -> None:
        self.app = app
        self._most = most
        self.documents: dict[str, dict[str, Any]] = {}
        self._arrows: dict[tuple[str, str], None] = {}
        # From a task to what it has sent: where a record names another parent, that one is right.
        self._sent: dict[tuple[str, str], None] = {}
        self._groups: dict[str, Any] = {}
        # Groups of which not everything is drawn, and how many members are left out.
        self._left_out: dict[str, int] = {}
        # Where many arrows of one group meet before they go to another.
        self._dots: dict[str, None] = {}

    def read(self, found: Iterable[Any]) -> None:
        ids = [leaf.id for leaf in found if leaf.id not in self.documents]
        if ids:
            for task_id, record in zip(ids, client_of(self.app).read(ids), strict=True):
                self.documents[task_id] = read_record(self.app, record)

    def follow(self, results: list[Any]) -> None:
        """Reads generation after generation."""
        seen: set[str] = set()
        generation = results
        while generation:
            tasks: dict[str, Any] = {}
            for result in generation:
                self._climb(result, tasks)
            new = [leaf for task_id, leaf in tasks.items() if task_id not in seen]
            seen.update(leaf.id for leaf in new)
            self.read(new)
            generation = [found for leaf in new for found in self._next_to(leaf)]

    def _climb(self, result: Any, tasks: dict[str, Any]) -> None:
        """Takes in a result, its members, and what the result itself knows to have come before them."""
        while result is not None:
            members = self._members(result)
            if result._members() is not None:
                self._groups[str(result.id)] = result
                for leaf in members:
                    self._climb(leaf, tasks)
            else:
                tasks.setdefault(result.id, result)
            if result.parent is not None:
                self._join(result.parent, result, self._arrows)
            result = result.parent

    def _next_to(self, leaf: Any) -> list[Any]:
        """What a task has sent, and what its record names as its parent."""
        document = self.documents[leaf.id]
        found = [result_from_tuple(child, self.app) for child in document.get("children") or ()]
        for sent in found:
            first = sent
            while first.parent is not None and first.parent.id != leaf.id:
                first = first.parent
            self._join(leaf, first, self._sent)
        parent = document.get("parent_id")
        return [*found, self.app.AsyncResult(parent)] if parent else found

    def _members(self, result: Any) -> list[Any]:
        """The results of tasks that are drawn of a result."""
        found = list(leaves([result]))
        if not 0 < self._most < len(found):
            return found
        shown = found[: self._most - 1]
        self._left_out[str(result.id)] = len(found) - len(shown)
        return shown

    def _join(self, before: Any, after: Any, arrows: dict[tuple[str, str], None]) -> None:
        starts, ends = self._keys(before), self._first_keys(after)
        if len(starts) > 1 and len(ends) > 1:
            dot = f"{before.id}>{after.id}"
            self._dots[dot] = None
            arrows.update(dict.fromkeys((start, dot) for start in starts))
            starts = [dot]
        arrows.update(dict.fromkeys((start, end) for start in starts for end in ends if start != end))

    def _keys(self, result: Any) -> list[str]:
        keys = [leaf.id for leaf in self._members(result)]
        return [*keys, f"…{result.id}"] if str(result.id) in self._left_out else keys

    def _first_keys(self, result: Any) -> list[str]:
        """The same, but of members that are chains their first tasks."""
        if result._members() is None:
            return [result.id]
        firsts = []
        for leaf in self._members(result):
            first = leaf
            while first.parent is not None and (result.parent is None or first.parent.id != result.parent.id):
                first = first.parent
            firsts.append(first)
        keys = [key for first in firsts for key in self._keys(first)]
        return [*keys, f"…{result.id}"] if str(result.id) in self._left_out else keys

    def _told_by_records(self) -> None:
        """Arrows from the parents that records name. That of a chord's body is one part of its header: all of it led there."""
        for task_id, document in self.documents.items():
            parent, group = document.get("parent_id"), self._groups.get(str(document.get("group_id")))
            if not parent:
                continue
            if (
                group is not None
                and all(leaf.id != task_id for leaf in leaves([group]))
                and parent in self._keys(group)
            ):
                self._join(group, self.app.AsyncResult(task_id), self._arrows)
            else:
                self._arrows[parent, task_id] = None
        for start, end in self._sent:
            parent = self.documents.get(end, {}).get("parent_id")
            if parent is None or parent == start or parent not in self.documents:
                self._arrows[start, end] = None

    def paint(self) -> Picture:
        self._told_by_records()
        picture = Picture("result")
        for task_id, document in self.documents.items():
            state = str(document["status"])
            lines = (str(document["name"]), task_id[:8], state) if document.get("name") else (task_id[:8], state)
            picture.box(task_id, *lines, look=LOOKS.get(state, _OWN), hint=_hint(task_id, document))
        for group_id, count in self._left_out.items():
            picture.box(f"…{group_id}", f"… {count} more", look=_LEFT_OUT)
        for dot in self._dots:
            picture.box(dot)
        known = set(picture.boxes)
        for start, end in self._arrows:
            if start in known and end in known:
                picture.arrow(start, end)
        return picture


def _hint(task_id: str, document: dict[str, Any]) -> str:
    lines = [task_id, str(document["status"])]
    if document["status"] in states.EXCEPTION_STATES:
        lines.append(repr(document["result"])[:500])
    return "\n".join(lines)
