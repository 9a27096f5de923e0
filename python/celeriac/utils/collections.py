"""Small collections."""

from __future__ import annotations

import time
from collections import ChainMap, OrderedDict
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

__all__ = [
    "AttributeDict",
    "AttributeDictMixin",
    "ChainMap",
    "DictAttribute",
    "LimitedSet",
    "OrderedDict",
    "force_mapping",
    "lpmerge",
]


class AttributeDictMixin:
    """Items of a mapping as attributes."""

    def __getattr__(self, k: str) -> Any:
        try:
            return self[k]  # type: ignore[index]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {k!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value


class AttributeDict(dict[str, Any], AttributeDictMixin):
    """A dict whose items are attributes too."""


class DictAttribute(MutableMapping[str, Any]):
    """Attributes of an object as items.

    Args:
        obj: The object.
    """

    obj: Any

    def __init__(self, obj: Any) -> None:
        object.__setattr__(self, "obj", obj)

    def __getattr__(self, key: str) -> Any:
        return getattr(self.obj, key)

    def __setattr__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __delitem__(self, key: str) -> None:
        try:
            delattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        return iter(dir(self.obj))

    def __len__(self) -> int:
        return len(dir(self.obj))


class LimitedSet:
    """A set that forgets: what is too old, and the oldest when there are too many.

    Args:
        maxlen: How many it may hold; 0: any number.
        expires: After how many seconds one is forgotten; 0: never.
        data: What it begins with.
        minlen: How many are kept although they are too old.
    """

    def __init__(self, maxlen: int = 0, expires: float = 0, data: Any = None, minlen: int = 0) -> None:
        if (maxlen or 0) < 0 or minlen < 0 or (expires or 0) < 0 or (maxlen and minlen > maxlen):
            raise ValueError("maxlen, minlen and expires must not be negative, and minlen must not exceed maxlen")
        self.maxlen, self.minlen, self.expires = maxlen or 0, minlen or 0, expires or 0
        # Item to the time at which it came, the oldest first.
        self._data: dict[Any, float] = {}
        if data:
            self.update(data)

    def add(self, item: Any, now: float | None = None) -> None:
        """Adds one, or makes it young again."""
        moment = time.monotonic() if now is None else now
        late = bool(self._data) and moment < next(reversed(self._data.values()))
        self._data.pop(item, None)
        self._data[item] = moment
        if late:
            self._data = dict(sorted(self._data.items(), key=lambda pair: pair[1]))
        self.purge(moment)

    def update(self, other: Any) -> None:
        """Adds many: another such set, a mapping of items to times, or items."""
        if isinstance(other, LimitedSet):
            other = other._data
        if isinstance(other, Mapping):
            for key, value in other.items():
                self.add(key, value.get("inserted") if isinstance(value, Mapping) else value)
            return
        for item in other:
            self.add(item)

    def discard(self, item: Any) -> None:
        """Forgets one."""
        self._data.pop(item, None)

    pop_value = discard

    def pop(self, default: Any = None) -> Any:
        """Takes the oldest."""
        if not self._data:
            return default
        item = next(iter(self._data))
        del self._data[item]
        return item

    def purge(self, now: float | None = None) -> None:
        """Forgets what is to be forgotten."""
        moment = time.monotonic() if now is None else now
        while self.maxlen and len(self._data) > self.maxlen:
            self.pop()
        while self.expires and len(self._data) > self.minlen:
            if next(iter(self._data.values())) > moment - self.expires:
                return
            self.pop()

    def clear(self) -> None:
        """Forgets all."""
        self._data.clear()

    def as_dict(self) -> dict[Any, float]:
        """Items and the times at which they came."""
        return dict(self._data)

    def __contains__(self, item: object) -> bool:
        return item in self._data

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._data))

    def __len__(self) -> int:
        return len(self._data)

    def __bool__(self) -> bool:
        return bool(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LimitedSet) and self._data == other._data

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<LimitedSet: {len(self)} of {self.maxlen}, expires={self.expires}>"


def force_mapping(m: Any) -> Mapping[str, Any]:
    """The mapping, or an object's attributes as one."""
    from celeriac.local import maybe_evaluate

    m = maybe_evaluate(m)
    return m if isinstance(m, Mapping) else DictAttribute(m)


def lpmerge(L: MutableMapping[Any, Any], R: Mapping[Any, Any]) -> MutableMapping[Any, Any]:  # noqa: N803 -- Celery's
    """Puts the items of the second that are not None into the first; gives it."""
    L.update((key, value) for key, value in R.items() if value is not None)
    return L
