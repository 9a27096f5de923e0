"""JSON with kombu's extended types, by the engine; types of the user's own on top."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celeriac._core import json_dumps, json_loads
from celeriac.exceptions import EncodeError

__all__ = ["CONTENT_ENCODING", "CONTENT_TYPE", "dumps", "loads", "register_type"]

CONTENT_TYPE = "application/json"
CONTENT_ENCODING = "utf-8"

# Filled by register_type, normally at import time; read by every call.
_encoders: dict[type, tuple[str | None, Callable[[Any], Any]]] = {}
_decoders: dict[str, Callable[[Any], Any]] = {}


def register_type(
    type_: type, marker: str | None, encoder: Callable[[Any], Any], decoder: Callable[[Any], Any] | None = None
) -> None:
    """Teaches JSON a type: it travels as `{"__type__": marker, "__value__": encoder(object)}`.

    Args:
        type_: The class; its subclasses are encoded in the same way.
        marker: Its name on the wire; None sends what `encoder` gives, with nothing around it.
        encoder: Gives something that JSON knows.
        decoder: Makes the object again; None leaves the marker unknown to this process.
    """
    _encoders[type_] = (marker, encoder)
    if decoder is not None and marker is not None:
        _decoders[marker] = decoder


def default(obj: Any) -> Any:
    """Turns what the engine does not know into something it does."""
    for type_ in type(obj).__mro__:
        known = _encoders.get(type_)
        if known is not None:
            marker, encoder = known
            return encoder(obj) if marker is None else {"__type__": marker, "__value__": encoder(obj)}
    reducer = getattr(obj, "__json__", None)
    if reducer is not None:
        return reducer()
    raise EncodeError(f"Object of type {type(obj).__name__} is not JSON serializable")


def dumps(obj: Any) -> bytes:
    """Encodes."""
    return json_dumps(obj, default)


def decoders() -> dict[str, Callable[[Any], Any]] | None:
    """What makes objects of types that were registered; None when there are none."""
    return _decoders or None


def loads(data: Any) -> Any:
    """Decodes."""
    return json_loads(data, _decoders) if _decoders else json_loads(data)
