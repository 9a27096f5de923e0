"""pickle: only for those who name it in `accept_content`, since reading it runs code."""

from __future__ import annotations

import pickle
from typing import Any

CONTENT_TYPE = "application/x-python-serialize"
CONTENT_ENCODING = "binary"
PROTOCOL = 4


def dumps(obj: Any) -> bytes:
    """Encodes."""
    return pickle.dumps(obj, protocol=PROTOCOL)


def loads(data: Any) -> Any:
    """Decodes."""
    return pickle.loads(data)
