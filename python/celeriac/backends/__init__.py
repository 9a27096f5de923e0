"""Result backends as objects: the base of those written in Python, and a face of the engine's own."""

from __future__ import annotations

from celeriac.backends.find import by_name, by_url

__all__ = ["by_name", "by_url"]
