"""Dates as text."""

from __future__ import annotations

from celeriac.utils.time import parse_iso8601

__all__ = ["parse_iso8601"]
