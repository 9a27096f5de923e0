"""A dictionary that forgets what was not used for the longest time."""

from __future__ import annotations

import threading
from collections import OrderedDict, UserDict
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, TypeVar

__all__ = ["LRUCache"]

K = TypeVar("K")
V = TypeVar("V")


class LRUCache(UserDict[K, V]):
    """Keeps the last entries that were set or read. Reading through `data` does not count as a use.

    Args:
        limit: Entries at the most; None is no limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.mutex = threading.RLock()
        self.data: OrderedDict[K, V] = OrderedDict()

    def __getitem__(self, key: K) -> V:
        with self.mutex:
            self.data.move_to_end(key)
            return self.data[key]

    def __setitem__(self, key: K, value: V) -> None:
        with self.mutex:
            self.data[key] = value
            self._trim()

    def _trim(self) -> None:
        while self.limit and len(self.data) > self.limit:
            self.data.popitem(last=False)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Sets many entries, then forgets what is too much."""
        with self.mutex:
            self.data.update(*args, **kwargs)
            self._trim()

    def popitem(self, last: bool = True) -> tuple[K, V]:
        """Takes the newest entry, or the oldest."""
        with self.mutex:
            return self.data.popitem(last)

    def __iter__(self) -> Iterator[K]:
        return iter(self.data)

    # A walk over the entries is no use of them, and takes a copy: others may write meanwhile.

    def keys(self) -> KeysView[K]:
        """The keys now, oldest first."""
        return self._copy().keys()

    def values(self) -> ValuesView[V]:
        """The values now, oldest first."""
        return self._copy().values()

    def items(self) -> ItemsView[K, V]:
        """The entries now, oldest first."""
        return self._copy().items()

    def _copy(self) -> dict[K, V]:
        with self.mutex:
            return dict(self.data)

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "data": self.data}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.mutex = threading.RLock()
