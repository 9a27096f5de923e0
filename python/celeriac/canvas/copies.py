"""Copies of signatures' options: containers and signatures anew, what they hold shared."""

from __future__ import annotations

from typing import Any

__all__ = ["copy_options"]


def copy_options(options: dict[str, Any]) -> dict[str, Any]:
    """A copy that can be changed without the original."""
    # A body is replaced, never changed: copied for every member of a header that was frozen, it would multiply.
    return {key: item if key == "chord" else _copy(item) for key, item in options.items()}


def _copy(value: Any) -> Any:
    """Copies containers and signatures, not what they hold."""
    if hasattr(value, "clone"):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value
