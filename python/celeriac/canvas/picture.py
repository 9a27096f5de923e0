"""Pictures of workflows before they run, from signatures or their JSON form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celeriac.utils.picture import Look, Picture

__all__ = ["picture_of"]

_MOST = 12
_LONGEST = 40
_TASK = Look()
_BODY = Look("#e0ecff", "#3b6fb6")
_LEFT_OUT = Look("#ffffff", "#94a3b8", broken=True)
_FAILED = "#b91c1c"
_CALLBACK = "#64748b"


def picture_of(signature: Mapping[str, Any], most: int = _MOST) -> Picture:
    """Draws what a signature will do: tasks, what follows what, callbacks and error callbacks.

    Args:
        signature: Of a task, a chain, a group, a chord, at any depth; or their JSON form.
        most: How many members of a group are drawn; one box stands for the others. 0 draws all.

    Raises:
        TypeError: It is no signature.
    """
    if not isinstance(signature, Mapping) or "task" not in signature:
        raise TypeError(
            f"a picture is made of a signature, such as chain(a.s(), b.s()), and not of {type(signature).__name__}"
        )
    painter = _Painter(most)
    painter.draw(signature)
    return painter.picture


class _Painter:
    """Draws signatures; each gives the boxes that it begins and ends with."""

    def __init__(self, most: int) -> None:
        self.picture = Picture()
        self._most = most
        self._count = 0

    def draw(self, sig: Mapping[str, Any], look: Look = _TASK) -> tuple[list[str], list[str]]:
        kind = sig.get("subtask_type") or ""
        kwargs = sig.get("kwargs") or {}
        if kind == "chain" or sig["task"] == "celery.chain":
            ends = self._chain(kwargs.get("tasks") or ())
        elif kind == "group" or sig["task"] == "celery.group":
            ends = self._group(kwargs.get("tasks") or ())
        elif kind == "chord" or sig["task"] == "celery.chord":
            ends = self._chord(kwargs)
        else:
            box = self._box(*_described(sig), look=look)
            ends = ([box], [box])
        options = sig.get("options") or {}
        for callback in _listed(options.get("link")):
            self._join(ends[1], self.draw(callback)[0], "link", _CALLBACK)
        for callback in _listed(options.get("link_error")):
            self._join(ends[1], self.draw(callback)[0], "error", _FAILED)
        return ends

    def _chain(self, steps: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
        first: list[str] = []
        last: list[str] = []
        for step in steps:
            # What waits for several is the body of a chord, whether it is called one yet or not.
            starts, ends = self.draw(step, _BODY if len(last) > 1 else _TASK)
            if not starts:
                # An empty group.
                continue
            self._join(last, starts)
            first, last = first or starts, ends
        return first, last

    def _group(self, members: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
        starts: list[str] = []
        ends: list[str] = []
        members = list(members)
        shown = members if not 0 < self._most < len(members) else members[: self._most - 1]
        for member in shown:
            first, last = self.draw(member)
            starts += first
            ends += last
        if len(shown) < len(members):
            box = self._box(f"… {len(members) - len(shown)} more", look=_LEFT_OUT)
            starts.append(box)
            ends.append(box)
        return starts, ends

    def _chord(self, kwargs: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        header = kwargs.get("header") or ()
        if isinstance(header, Mapping):
            header = (header.get("kwargs") or {}).get("tasks") or ()
        starts, ends = self._group(header)
        if kwargs.get("body") is None:
            return starts, ends
        first, last = self.draw(kwargs["body"], _BODY)
        self._join(ends, first)
        return starts or first, last

    def _join(self, ends: list[str], starts: list[str], label: str = "", stroke: str = "#1f2937") -> None:
        if len(ends) > 1 and len(starts) > 1:
            # Many to many by way of a dot, so that arrows grow with the tasks and not with their product.
            dot = self._box()
            self._join(ends, [dot], label, stroke)
            ends, label = [dot], ""
        for end in ends:
            for start in starts:
                self.picture.arrow(end, start, label, stroke, broken=bool(label))

    def _box(self, *lines: str, look: Look = _TASK) -> str:
        self._count += 1
        return self.picture.box(f"n{self._count}", *(_cut(line) for line in lines), look=look, hint="\n".join(lines))


def _described(sig: Mapping[str, Any]) -> tuple[str, ...]:
    """The lines of a task's box."""
    kwargs = sig.get("kwargs") or {}
    name = str(sig["task"])
    over = kwargs.get("task")
    if name in {"celery.map", "celery.starmap", "celery.chunks"} and isinstance(over, Mapping):
        word = {"celery.map": "map", "celery.starmap": "starmap", "celery.chunks": "chunks"}[name]
        times = len(kwargs["it"]) if hasattr(kwargs.get("it"), "__len__") else "?"
        size = f" of {kwargs['n']}" if "n" in kwargs else ""
        return str(over.get("task")), f"{word}{size} over {times}"
    parts = [repr(arg) for arg in sig.get("args") or ()]
    parts += [f"{key}={value!r}" for key, value in kwargs.items()]
    if not parts:
        return (name,)
    return name, f"({', '.join(parts)})"


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _listed(callbacks: Any) -> list[Mapping[str, Any]]:
    if not callbacks:
        return []
    return [callbacks] if isinstance(callbacks, Mapping) else list(callbacks)
