"""pickle: only for those who name it in `accept_content`, since reading it runs code.

What is ours (exceptions, signatures, results) is written under the name of its counterpart in Celery, and what is Celery's
is read as ours, so that peers of both kinds find their own classes.
"""

from __future__ import annotations

import io
import pickle
import sys
from importlib import import_module
from types import FunctionType
from typing import Any

from celeriac import exceptions

CONTENT_TYPE = "application/x-python-serialize"
CONTENT_ENCODING = "binary"
PROTOCOL = 4

_OURS = "celeriac."
#: Packages of ours that are one module there.
_ONE_MODULE = ("canvas", "result", "schedules")


class _Module:
    """Stands for a module that may exist at the reader's only."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)):
            home = _home_at_celery(obj)
            return NotImplemented if home is None else (getattr, (_Module(home), obj.__qualname__))
        if type(obj) is _Module:
            return import_module, (obj.name,)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("importlib", "import_module"):
            return _module
        return _of_ours(module, name) or super().find_class(module, name)


class _Namespace:
    """A module of Celery's as it is here."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        found = _of_ours(self._name, name)
        return getattr(import_module(self._name), name) if found is None else found


def dumps(obj: Any) -> bytes:
    """Encodes."""
    out = io.BytesIO()
    _Pickler(out, PROTOCOL).dump(obj)
    return out.getvalue()


def loads(data: Any) -> Any:
    """Decodes."""
    return _Unpickler(io.BytesIO(data)).load()


def _home_at_celery(obj: type | FunctionType) -> str | None:
    """The module in which Celery has what this is; None when it is not ours, or has no counterpart."""
    module = obj.__module__
    if not isinstance(module, str) or not module.startswith(_OURS) or "<" in obj.__qualname__:
        return None
    if module == exceptions.__name__:
        from celeriac.serialization.failure import MODULE_ON_WIRE

        return MODULE_ON_WIRE.get(obj, "celery.exceptions") if isinstance(obj, type) else None
    first, _, rest = module.removeprefix(_OURS).partition(".")
    if first.startswith("_"):
        return None
    return f"celery.{first}" if first in _ONE_MODULE or not rest else f"celery.{first}.{rest}"


def _of_ours(module: str, name: str) -> Any:
    """What is ours for a name of Celery's, kombu's or billiard's; None when there is none."""
    if module in ("celery.exceptions", "kombu.exceptions", "billiard.exceptions"):
        found = vars(exceptions).get(name)
        return found if isinstance(found, type) and found.__module__ == exceptions.__name__ else None
    if not module.startswith("celery.") or module in sys.modules:
        # Loaded: an app that Celery itself has made is served here, or it is ours under that name.
        return None
    try:
        return getattr(import_module(f"celeriac.{module.removeprefix('celery.')}"), name, None)
    except ModuleNotFoundError:
        return None


def _module(name: str) -> Any:
    return _Namespace(name) if name.startswith(("celery.", "kombu.", "billiard.")) else import_module(name)
