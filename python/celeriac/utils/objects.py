"""Small tools for objects and classes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

__all__ = ["Bunch", "FallbackContext", "getitem_property", "mro_lookup"]


class Bunch:
    """An object of the attributes it is given."""

    def __init__(self, **kwargs: Any) -> None:
        self.__dict__.update(kwargs)


def mro_lookup(
    cls: type, attr: str, stop: Collection[type] | None = None, monkey_patched: Collection[str] | None = None
) -> type | None:
    """The class that defines an attribute; None when one of `stop` comes first.

    Args:
        cls: Where to begin.
        attr: The attribute.
        stop: Classes that end the search.
        monkey_patched: Modules: what a class of `stop` has from another module, somebody has put there, and counts.
    """
    stop, monkey_patched = stop or (), monkey_patched or ()
    for node in cls.__mro__:
        found = node.__dict__.get(attr)
        if node in stop:
            module = getattr(found, "__module__", None)
            return node if found is not None and module is not None and module not in monkey_patched else None
        if attr in node.__dict__:
            return node
    return None


class FallbackContext:
    """A context manager around what is given, or around what is made of the arguments when nothing is.

    Args:
        provided: Used as it is, and not closed.
        fallback: Makes a context manager.
        *fb_args: Its arguments.
        **fb_kwargs: Likewise.
    """

    def __init__(self, provided: Any, fallback: Callable[..., Any], *fb_args: Any, **fb_kwargs: Any) -> None:
        self.provided = provided
        self.fallback = fallback
        self.fb_args = fb_args
        self.fb_kwargs = fb_kwargs
        self._context: Any = None

    def __enter__(self) -> Any:
        if self.provided is not None:
            return self.provided
        self._context = self.fallback(*self.fb_args, **self.fb_kwargs)
        return self._context.__enter__()

    def __exit__(self, *exc_info: object) -> Any:
        return self._context.__exit__(*exc_info) if self._context is not None else None


class getitem_property:
    """A property that is kept in the object's items, below the path given.

    Args:
        keypath: Keys, with dots between them.
        doc: Its docstring.
    """

    def __init__(self, keypath: str, doc: str | None = None) -> None:
        *self.path, self.key = keypath.split(".")
        self.__doc__ = doc

    def _holder(self, obj: Any) -> Any:
        return _follow(obj, self.path)

    def __get__(self, obj: Any, type: type | None = None) -> Any:
        return type if obj is None else self._holder(obj).get(self.key)

    def __set__(self, obj: Any, value: Any) -> None:
        self._holder(obj)[self.key] = value


def _follow(obj: Any, path: Iterable[str]) -> Any:
    for key in path:
        obj = obj[key]
    return obj
