"""Serializers and JSON types that the project has registered with kombu, made known to ours."""

from __future__ import annotations

import sys
from typing import Any

from celeriac.serialization import json, registry

__all__ = ["take_over"]

#: Those that both libraries have.
_BUILT_IN = frozenset({"json", "pickle", "yaml", "msgpack", "raw", "auth"})
#: Modules of the types that both libraries' JSON has.
_BUILT_IN_TYPES = frozenset({"datetime", "decimal", "uuid"})


def take_over() -> None:
    """Registers what kombu knows and we do not. May be called again, for what was registered since."""
    kombu = sys.modules.get("kombu.serialization")
    if kombu is not None:
        _take_serializers(kombu.registry)
    types = sys.modules.get("kombu.utils.json")
    if types is not None:
        _take_json_types(types)


def _take_serializers(found: Any) -> None:
    own_json = sys.modules.get("kombu.utils.json")
    for name, codec in list(found._encoders.items()):
        decode = found._decoders.get(codec.content_type)
        replaced_json = name == "json" and own_json is not None and codec.encoder is not own_json.dumps
        if decode is None or (name in _BUILT_IN and not replaced_json):
            continue
        registry.register(name, codec.encoder, decode, codec.content_type, codec.content_encoding)


def _take_json_types(kombu: Any) -> None:
    for cls, (marker, encoder) in list(kombu._encoders.items()):
        if cls.__module__ not in _BUILT_IN_TYPES:
            json.register_type(cls, marker, encoder, None if marker is None else kombu._decoders.get(marker))
