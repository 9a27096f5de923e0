"""URLs as they may be shown."""

from __future__ import annotations

import re

__all__ = ["without_password"]

# Whatever is between the user and the last `@` of a URL, or of what should have been one.
_PASSWORD = re.compile(r"""((?:://|^|[';])[^:/@\s';]*):(?!//)[^\s;']*@""")


def without_password(text: str) -> str:
    """The text with stars for the passwords of the URLs in it."""
    return _PASSWORD.sub(r"\1:**@", text)
