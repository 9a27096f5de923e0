"""What Celery users import from `utils`."""

from __future__ import annotations

from os import urandom

__all__ = ["gen_unique_id", "uuid"]

_VARIANT = "89ab89ab89ab89ab"


def uuid() -> str:
    """A random (version 4) UUID as text."""
    digits = urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[int(digits[16], 16)]}{digits[17:20]}-{digits[20:]}"


gen_unique_id = uuid
