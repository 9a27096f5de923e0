"""Exceptions as documents and back (`exc_type`, `exc_message`, `exc_module`).

Reading imports nothing: a class is used when its module is loaded already, else a class of that name is
made up. Our own exceptions travel under the module names of Celery, kombu and billiard, so that peers
of both kinds find their own classes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from celeriac import exceptions
from celeriac.exceptions import SecurityError
from celeriac.serialization import json

__all__ = ["MODULE_ON_WIRE", "decode", "encode", "ensure_serializable", "make_exception_class"]

_KOMBU = (
    "KombuError",
    "OperationalError",
    "SerializationError",
    "EncodeError",
    "DecodeError",
    "SerializerNotInstalled",
    "ContentDisallowed",
    "ConnectionLimitExceeded",
)
_BILLIARD = ("SoftTimeLimitExceeded", "TimeLimitExceeded", "WorkerLostError", "Terminated")

#: Class of ours -> module it has on the wire; all others of our exceptions have `celery.exceptions`.
MODULE_ON_WIRE: dict[type, str] = {
    **{getattr(exceptions, name): "kombu.exceptions" for name in _KOMBU},
    **{getattr(exceptions, name): "billiard.exceptions" for name in _BILLIARD},
}

_OURS = exceptions.__name__
_WIRE_MODULES = frozenset({"celery.exceptions", "kombu.exceptions", "billiard.exceptions", _OURS})
_UNKNOWN_MODULE = "celery.exceptions"
_NO_MODULE = "celery.backends.base"
_PLAIN = (str, int, float, bool, type(None))


def encode(exc: BaseException, encoder: Callable[[Any], bytes] = json.dumps) -> dict[str, Any]:
    """The document of an exception; arguments that `encoder` refuses are replaced by their repr."""
    cls = type(exc)
    module = cls.__module__
    if module == _OURS:
        module = MODULE_ON_WIRE.get(cls, "celery.exceptions")
    return {
        "exc_type": cls.__qualname__,
        "exc_message": ensure_serializable(exc.args, encoder),
        "exc_module": module,
    }


def ensure_serializable(items: tuple[Any, ...], encoder: Callable[[Any], bytes] = json.dumps) -> list[Any]:
    """The items, each one that cannot be encoded replaced by its repr."""
    safe: list[Any] = []
    for item in items:
        if not isinstance(item, _PLAIN):
            try:
                encoder(item)
            except Exception:
                item = _safe_repr(item)
        safe.append(item)
    return safe


def decode(document: Any) -> BaseException | None:
    """The exception of a document.

    Raises:
        SecurityError: The document names something that is not an exception.
        ValueError: It is not such a document.
    """
    if not document:
        return None
    if isinstance(document, BaseException):
        # A pickle: Celery puts what cannot be pickled into a wrapper.
        restore = getattr(document, "restore", None) if hasattr(document, "exc_cls_name") else None
        return document if restore is None else cast("BaseException", restore())
    if not isinstance(document, Mapping):
        document = dict(document)
    try:
        type_name = document["exc_type"]
    except KeyError:
        raise ValueError("Exception information must include the exception type") from None
    module = document.get("exc_module")
    message = document.get("exc_message", "")
    cls = _find_class(str(type_name), module)
    if not isinstance(cls, type) or not issubclass(cls, BaseException):
        name = type_name if module is None else f"{module}.{type_name}"
        raise SecurityError(f"Expected an exception class, got {name} with payload {message}")
    try:
        return cls(*message) if isinstance(message, (tuple, list)) else cls(message)
    except Exception:
        return Exception(f"{cls}({message})")


def make_exception_class(name: str, module: str) -> type[Exception]:
    """An exception class for a name that nothing here defines."""
    return type(name, (Exception,), {"__module__": module})


def _find_class(name: str, module: str | None) -> Any:
    if module is None:
        return make_exception_class(name, _NO_MODULE)
    if module in _WIRE_MODULES:
        # Not `getattr` on our module: it also holds what it imports.
        ours = vars(exceptions).get(name)
        if isinstance(ours, type) and ours.__module__ == _OURS:
            return ours
    found: Any = sys.modules.get(module)
    if found is None:
        return make_exception_class(name, _UNKNOWN_MODULE)
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        return make_exception_class(name, _UNKNOWN_MODULE)
    return found


def _safe_repr(obj: object) -> str:
    try:
        return repr(obj)
    except Exception:
        return f"<{type(obj).__name__}: repr() failed>"
