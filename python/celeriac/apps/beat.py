"""The beat as a class."""

from __future__ import annotations

from celeriac.beat.program import Beat

__all__ = ["Beat"]
