"""Serializers by name and content type, and which of them are accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, NamedTuple

from celeriac.exceptions import ContentDisallowed, DecodeError, EncodeError, SerializerNotInstalled
from celeriac.serialization import json

__all__ = ["Codec", "dumps", "loads", "prepare_accept_content", "register", "unregister"]


class Codec(NamedTuple):
    """One serializer."""

    content_type: str
    content_encoding: str
    encode: Callable[[Any], bytes]
    decode: Callable[[Any], Any]


#: Never refused by the accept check: raw data, and the signing serializer, which checks by itself.
TRUSTED_CONTENT = frozenset({"application/data", "application/text"})

_LAZY = {"pickle": "pickle", "yaml": "yaml", "msgpack": "msgpack"}
_LAZY_TYPES = {
    "application/x-python-serialize": "pickle",
    "application/x-yaml": "yaml",
    "application/x-msgpack": "msgpack",
}
# Written by register and by the first use of a lazy one; dict operations are atomic, so readers need no lock.
_codecs: dict[str, Codec] = {
    "json": Codec(json.CONTENT_TYPE, json.CONTENT_ENCODING, json.dumps, json.loads),
}
_names: dict[str, str] = {json.CONTENT_TYPE: "json"}
_own_json = _codecs["json"]


def register(
    name: str,
    encoder: Callable[[Any], Any],
    decoder: Callable[[Any], Any],
    content_type: str,
    content_encoding: str = "utf-8",
) -> None:
    """Adds a serializer, or replaces one. `encoder` gives bytes or text; `decoder` is given what it made."""

    def encode(obj: Any) -> bytes:
        data = encoder(obj)
        return data.encode(content_encoding) if isinstance(data, str) else bytes(data)

    def decode(data: Any) -> Any:
        return decoder(data if content_encoding == "binary" else bytes(data).decode(content_encoding))

    _codecs[name] = Codec(content_type, content_encoding, encode, decode)
    _names[content_type] = name


def unregister(name: str) -> None:
    """Removes a serializer."""
    codec = _codecs.pop(name, None)
    if codec is None:
        raise SerializerNotInstalled(f"no serializer {name!r}")
    _names.pop(codec.content_type, None)


def codec(name: str) -> Codec:
    """The serializer of a name or content type."""
    found = _codecs.get(name)
    if found is not None:
        return found
    name = _names.get(name) or _LAZY_TYPES.get(name, name)
    if name in _codecs:
        return _codecs[name]
    if name not in _LAZY:
        raise SerializerNotInstalled(f"no serializer {name!r}")
    module = import_module(f"celeriac.serialization.{_LAZY[name]}")
    loaded = Codec(module.CONTENT_TYPE, module.CONTENT_ENCODING, module.dumps, module.loads)
    _codecs[name] = loaded
    _names[loaded.content_type] = name
    return loaded


def json_is_own() -> bool:
    """Whether JSON is read and written by the engine: nobody has registered another serializer for it."""
    return _codecs.get("json") is _own_json and _names.get(json.CONTENT_TYPE) == "json"


def prepare_accept_content(accept: Iterable[str] | None) -> frozenset[str] | None:
    """Content types from names or content types."""
    if accept is None:
        return None
    lazy = {name: content_type for content_type, name in _LAZY_TYPES.items()}
    return frozenset(item if "/" in item else lazy.get(item) or codec(item).content_type for item in accept)


def dumps(obj: Any, serializer: str | None = None) -> tuple[str, str, bytes]:
    """Encodes: (content type, content encoding, bytes).

    Raises:
        EncodeError: The serializer refuses the object.
        SerializerNotInstalled: There is no such serializer.
    """
    if serializer is None or serializer == "raw":
        if isinstance(obj, bytes):
            return "application/data", "binary", obj
        if isinstance(obj, str):
            return "text/plain", "utf-8", obj.encode()
        serializer = "json"
    chosen = codec(serializer)
    try:
        return chosen.content_type, chosen.content_encoding, chosen.encode(obj)
    except EncodeError:
        raise
    except Exception as exc:
        raise EncodeError(str(exc)) from exc


def loads(data: Any, content_type: str, content_encoding: str = "utf-8", accept: Iterable[str] | None = None) -> Any:
    """Decodes.

    Args:
        data: Bytes or text.
        content_type: What it is.
        content_encoding: How its text is encoded.
        accept: Names or content types that may be decoded; None accepts all.

    Raises:
        ContentDisallowed: The content type is not accepted.
        DecodeError: The data is damaged.
    """
    if accept is not None and content_type not in accept and content_type not in TRUSTED_CONTENT:
        allowed = prepare_accept_content(accept)
        if allowed is not None and content_type not in allowed:
            raise ContentDisallowed(f"refusing to decode content of type {content_type!r}: it is not accepted")
    if not data:
        return data
    if content_type in {"application/data", "text/plain", "application/text"}:
        return data if content_encoding == "binary" or isinstance(data, str) else bytes(data).decode(content_encoding)
    try:
        return codec(content_type).decode(data)
    except (DecodeError, SerializerNotInstalled):
        raise
    except Exception as exc:
        raise DecodeError(repr(exc)) from exc
