"""Logical time: what orders events of programs whose watches differ."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["LamportClock", "timetuple"]


class LamportClock:
    """A counter that is always past whatever the others have told.

    Args:
        initial_value: Where to begin.
    """

    def __init__(self, initial_value: int = 0) -> None:
        self.value = initial_value
        self._lock = threading.Lock()

    def adjust(self, other: int) -> int:
        """Another program told its time: ours is later from now on. Gives the new time."""
        with self._lock:
            self.value = max(self.value, other) + 1
            return self.value

    def forward(self) -> int:
        """Something happens here: moves on. Gives the new time."""
        with self._lock:
            self.value += 1
            return self.value

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return f"<LamportClock: {self.value}>"


class timetuple(tuple[Any, ...]):
    """(logical time, Unix time, who, what): ordered by logical time where both have one, else by Unix time."""

    __slots__ = ()

    def __new__(cls, clock: int | None, timestamp: float, id: str, obj: Any = None) -> timetuple:
        return super().__new__(cls, (clock, timestamp, id, obj))

    clock = property(lambda self: self[0])
    timestamp = property(lambda self: self[1])
    id = property(lambda self: self[2])
    obj = property(lambda self: self[3])

    def __lt__(self, other: Any) -> bool:
        ours, theirs = self[0], other[0]
        if not (ours and theirs):
            return bool(self[1] < other[1])
        return bool(self[2] < other[2] if ours == theirs else ours < theirs)

    def __gt__(self, other: Any) -> bool:
        return bool(other < self)

    def __le__(self, other: Any) -> bool:
        return not other < self

    def __ge__(self, other: Any) -> bool:
        return not self < other

    def __repr__(self) -> str:
        return f"<timetuple: {self[0]}, {self[1]}, {self[2]}, {self[3]!r}>"

    def __reduce__(self) -> Any:
        return type(self), tuple(self)
