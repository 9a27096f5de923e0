"""YAML: safe types only. Needs the `yaml` extra."""

from __future__ import annotations

from typing import Any

import yaml

CONTENT_TYPE = "application/x-yaml"
CONTENT_ENCODING = "utf-8"


def dumps(obj: Any) -> bytes:
    """Encodes."""
    text: str = yaml.safe_dump(obj)
    return text.encode()


def loads(data: Any) -> Any:
    """Decodes."""
    return yaml.safe_load(bytes(data).decode())
