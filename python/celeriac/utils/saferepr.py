"""Objects as text, of bounded length, whatever their own `__repr__` does."""

from __future__ import annotations

from typing import Any

from celeriac._core import saferepr as _saferepr

__all__ = ["saferepr"]


def saferepr(o: Any, maxlen: int | None = None, maxlevels: int = 3, seen: Any = None) -> str:
    """An object as text.

    Args:
        o: The object.
        maxlen: Characters; any number unless given.
        maxlevels: How deep containers are shown.
        seen: Accepted for compatibility.
    """
    return _saferepr(o, maxlen or 2**31 - 1, maxlevels)
