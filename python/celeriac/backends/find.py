"""Which class a result backend is: by path, by a short name that a package declares, or one of the engine's."""

from __future__ import annotations

import re
from functools import lru_cache
from types import ModuleType
from typing import Any

from celeriac.exceptions import ImproperlyConfigured
from celeriac.utils.imports import symbol_by_name

__all__ = ["ENTRY_POINTS", "by_name", "by_url", "own_backend"]

#: Group of entry points under which packages declare short names of backends, as for Celery.
ENTRY_POINTS = "celery.result_backends"

#: Schemes and names that the engine speaks, or refuses with a list of what it does.
_ENGINE = frozenset(
    {
        "amqp",
        "amqps",
        "memory",
        "pyamqp",
        "redis",
        "redis+socket",
        "rediss",
        "rpc",
        "sentinel",
        "sqlite",
    }
)

#: `package.module.Class` or `package.module:Class`. A URL without its scheme is none, and may have a password.
_PATH = re.compile(r"[^\W\d]\w*([.:][^\W\d]\w*)+")


def own_backend(value: Any) -> tuple[Any, str | None] | None:
    """The class (or its path) and the URL of a backend that is written in Python.

    Args:
        value: The setting `result_backend`: a class, its path, a short name, or a URL whose scheme is one of these.

    Returns:
        None where the engine keeps the results, or nobody does.
    """
    if not value:
        return None
    if not isinstance(value, str):
        return value, None
    scheme, found, _ = value.partition("://")
    if not found:
        return _named(value)
    if scheme in _ENGINE:
        return None
    # `package.module:Class+scheme://...`: the class is given what follows.
    path, plus, rest = value.partition("+")
    named = _named(path if plus and len(path) < len(scheme) else scheme)
    return None if named is None else (named[0], rest if plus and len(path) < len(scheme) else value)


def _named(name: str) -> tuple[Any, str | None] | None:
    if name in _ENGINE or name in {"disabled", "db", "database"}:
        return None
    declared = _declared().get(name)
    if declared is not None:
        return declared, None
    return (name, None) if _PATH.fullmatch(name) else None


@lru_cache(maxsize=1)
def _declared() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def by_name(backend: Any = None, loader: Any = None, extension_namespace: str = ENTRY_POINTS) -> Any:
    """The class of a backend, given by path or by short name.

    Args:
        backend: What is wanted; nothing is `DisabledBackend`.
        loader: Accepted for compatibility.
        extension_namespace: Accepted for compatibility.

    Raises:
        ImproperlyConfigured: There is no such class.
    """
    return by_url(backend, loader)[0]


def by_url(backend: Any = None, loader: Any = None) -> tuple[Any, str | None]:
    """The class of a backend given by URL, path or short name; and the URL that it is given.

    Raises:
        ImproperlyConfigured: There is no such class.
    """
    own = own_backend(backend)
    if own is None:
        if not backend or backend in {"disabled", "disabled://"}:
            from celeriac.backends.base import DisabledBackend

            return DisabledBackend, None
        from celeriac.backends.engine import EngineBackend

        return EngineBackend, backend
    path, url = own
    try:
        cls = symbol_by_name(path)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ImproperlyConfigured(f"the result backend {path!r} cannot be imported: {exc}") from exc
    if isinstance(cls, ModuleType):
        raise ImproperlyConfigured(f"the result backend {path!r} is a module: name a class in it")
    return cls, url
