"""Calls not yet made: signatures and chains."""

from __future__ import annotations

from typing import Any

from celeriac.canvas.chain import chain
from celeriac.canvas.rebuild import maybe_signature
from celeriac.canvas.signature import Signature, signature, subtask

__all__ = ["Signature", "chain", "maybe_signature", "signature", "subtask"]

#: Parts of Celery's canvas that this version has not.
LATER = frozenset({"StampingVisitor", "chord", "chunks", "group", "xmap", "xstarmap"})


def __getattr__(name: str) -> Any:
    if name in LATER:
        raise ImportError(f"{name} comes in a later version; this one has signatures and chains")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
