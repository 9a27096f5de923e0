"""Checks arguments against a task's function before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import FunctionType, MethodType
from typing import Any

__all__ = ["header_of", "takes_more_than"]

_VARARGS, _VARKEYWORDS = 0x04, 0x08


def header_of(fun: Any, *, bound: bool = False) -> Callable[..., None] | None:
    """A function that takes what `fun` takes and does nothing.

    Calling it is the cheapest exact check there is, and its errors are Python's own. None when `fun` is not a
    plain function, so that nothing can be said.

    Args:
        fun: The function or method.
        bound: Its first parameter is the task itself.
    """
    if isinstance(fun, MethodType):
        fun, bound = fun.__func__, True
    if not isinstance(fun, FunctionType):
        return None
    code = fun.__code__
    names = code.co_varnames
    count, only_keyword = code.co_argcount, code.co_kwonlyargcount
    defaults = count - len(fun.__defaults__ or ())
    parts: list[str] = []
    for place in range(1 if bound and count else 0, count):
        parts.append(f"{names[place]}=None" if place >= defaults else names[place])
        if place == code.co_posonlyargcount - 1:
            parts.append("/")
    rest = count + only_keyword
    if code.co_flags & _VARARGS:
        # Without positional parameters of its own, a bound task takes itself through them.
        parts.append(f"*{names[rest]}")
        rest += 1
    elif only_keyword:
        parts.append("*")
    optional = fun.__kwdefaults__ or {}
    parts.extend(f"{name}=None" if name in optional else name for name in names[count : count + only_keyword])
    if code.co_flags & _VARKEYWORDS:
        parts.append(f"**{names[rest]}")
    namespace: dict[str, Any] = {}
    name = fun.__name__ if fun.__name__.isidentifier() else "task"
    try:
        exec(f"def {name}({', '.join(parts)}): pass", namespace)  # noqa: S102 -- identifiers of compiled code only
    except SyntaxError:
        return None
    header: Callable[..., None] = namespace[name]
    return header


def takes_more_than(header: Any, count: int, named: Collection[str] = ()) -> bool:
    """Whether a header accepts more than `count` positional arguments, when those of these names are given."""
    code = getattr(header, "__code__", None)
    if code is None:
        return True
    places = code.co_varnames[: code.co_argcount]
    # A parameter given by its name ends what can be given by place, as in a partial.
    for place, name in enumerate(places):
        if name in named:
            return place > count
    return bool(code.co_flags & _VARARGS) or len(places) > count
