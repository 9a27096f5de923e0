"""Signals: something happens, and whoever has connected is called."""

from __future__ import annotations

from celeriac.utils.dispatch.signal import Signal

__all__ = ["Signal"]
