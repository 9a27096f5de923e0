"""Says that something is not to be used any more."""

from __future__ import annotations

import warnings
from collections.abc import Callable as _Callable
from functools import wraps
from typing import Any

from celeriac.exceptions import CDeprecationWarning, CPendingDeprecationWarning

__all__ = ["Callable", "Property", "warn"]


def warn(
    description: str | None = None,
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    stacklevel: int = 2,
) -> None:
    """Warns of it.

    Args:
        description: What it is.
        deprecation: The version that will say so; it is only announced, then.
        removal: The version that will not have it.
        alternative: What to use instead.
        stacklevel: Whose line it is.
    """
    parts = [f"{description} is deprecated"]
    if deprecation is not None:
        parts = [f"{description} will be deprecated in version {deprecation}"]
    if removal is not None:
        parts.append(f"will be removed in version {removal}")
    text = " and ".join(parts) + (f". {alternative}" if alternative else ".")
    category = CDeprecationWarning if deprecation is None else CPendingDeprecationWarning
    warnings.warn(category(text), stacklevel=stacklevel + 1)


def Callable(
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> Any:
    """Decorator of a function that warns when it is called."""

    def decorate(fun: _Callable[..., Any]) -> _Callable[..., Any]:
        @wraps(fun)
        def warned(*args: Any, **kwargs: Any) -> Any:
            warn(description or fun.__qualname__, deprecation, removal, alternative, stacklevel=2)
            return fun(*args, **kwargs)

        return warned

    return decorate


def Property(
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> Any:
    """Decorator of a property that warns when it is read."""
    decorate = Callable(deprecation, removal, alternative, description)
    return lambda fun: property(decorate(fun))
