"""Dicts that come out of messages back to signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celeriac.canvas.signature import Signature

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["from_dict", "maybe_signature"]

#: Kind of workflow -> module that registers it.
_HOMES = {"chain": "chain", "chord": "chord", "group": "group"}


def from_dict(d: Mapping[str, Any], app: Celery | None = None) -> Signature[Any]:
    """The signature of a dict; one of a kind that is not known stays a plain one."""
    kind = d.get("subtask_type")
    if kind is None:
        return Signature(d, app=app)
    if kind not in Signature.TYPES and kind in _HOMES:
        from importlib import import_module

        import_module(f"celeriac.canvas.{_HOMES[kind]}")
    cls = Signature.TYPES.get(kind)
    return Signature(d, app=app) if cls is None else cls.from_dict(d, app=app)


def maybe_signature(d: Any, app: Celery | None = None, clone: bool = False) -> Any:
    """A signature of a dict or signature; None and lists of such are passed through."""
    if d is None:
        return None
    if isinstance(d, Signature):
        if clone:
            d = d.clone()
    elif isinstance(d, Mapping):
        d = from_dict(d, app)
    elif isinstance(d, (list, tuple)):
        return [maybe_signature(item, app, clone) for item in d]
    if app is not None and isinstance(d, Signature) and d._app is None:
        d._app = app
    return d
