"""msgpack. Needs the `msgpack` extra."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]

CONTENT_TYPE = "application/x-msgpack"
CONTENT_ENCODING = "binary"


def dumps(obj: Any) -> bytes:
    """Encodes."""
    data: bytes = msgpack.packb(obj, use_bin_type=True)
    return data


def loads(data: Any) -> Any:
    """Decodes."""
    return msgpack.unpackb(data, raw=False)
