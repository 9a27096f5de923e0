"""Requests and exceptions of ours, in Celery's classes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from celeriac.app.context import DELIVERY_HEADERS, Context
from celeriac.serialization.failure import MODULE_ON_WIRE

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["as_celery", "celery", "context_of", "fields_of"]

_OURS = "celeriac.exceptions"


def celery(module: str) -> ModuleType:
    """A module of Celery, which made the app: so it is installed, and mostly loaded."""
    return import_module(f"celery.{module}")


def fields_of(request: Context) -> dict[str, Any]:
    """What Celery's request has; names that begin with an underscore are ours."""
    fields = {
        name: value for name, value in request.__dict__.items() if name[:1] != "_" and name not in DELIVERY_HEADERS
    }
    if custom := request.headers:
        # Libraries that follow a trace look for their headers there.
        fields["headers"] = custom
    return fields


def context_of(request: Any) -> Any:
    """The same request as Celery's tasks know it; anything else as it is."""
    if not isinstance(request, Context):
        return request
    found = request.__dict__.get("_celery")
    if found is None:
        # Kept, so that whoever is told twice is told of the same object.
        found = request.__dict__["_celery"] = celery("app.task").Context(fields_of(request))
    return found


def as_celery(exc: Any) -> Any:
    """An exception of ours as Celery's class of that name; any other as it is."""
    cls = type(exc)
    if cls.__module__ != _OURS:
        return exc
    found = getattr(import_module(MODULE_ON_WIRE.get(cls, "celery.exceptions")), cls.__name__, None)
    if found is None:
        return exc
    made = found(*exc.args)
    made.__cause__, made.__traceback__ = exc.__cause__, exc.__traceback__
    return made
