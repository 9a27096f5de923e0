"""Calls not yet made, and workflows of them: signatures, chains, groups, chords, maps."""

from __future__ import annotations

from celeriac.canvas.chain import chain
from celeriac.canvas.chord import chord
from celeriac.canvas.chunks import chunks, xmap, xstarmap
from celeriac.canvas.group import group
from celeriac.canvas.rebuild import maybe_signature
from celeriac.canvas.signature import Signature, signature, subtask
from celeriac.canvas.stamping import StampingVisitor

__all__ = [
    "Signature",
    "StampingVisitor",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "maybe_subtask",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]

maybe_subtask = maybe_signature
