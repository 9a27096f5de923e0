"""The module `celery` itself: Celery's names and version, celeriac's objects. Submodules are celeriac's own modules."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from celeriac.compat import VERSION

#: What `from celery import *` gives.
ALL = (
    "Celery",
    "Task",
    "bugreport",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "maybe_signature",
    "shared_task",
    "signature",
    "uuid",
    "xmap",
    "xstarmap",
)
_MORE = frozenset({"Signature", "subtask"})
#: Modules that Celery 5 still gives as attributes of the package.
_MODULES = frozenset({"execute", "local", "registry"})


class version_info_t(NamedTuple):
    """A version in parts."""

    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: str


class CeleryModule(ModuleType):
    """Stands for the package `celery`. Not the module `celeriac`, whose version is another."""

    def __init__(self) -> None:
        from celeriac.compat.finder import spec_of_celery

        super().__init__("celery", "Celery's API, by celeriac.")
        spec = spec_of_celery()
        major, minor, micro = (int(part) for part in VERSION.split("."))
        self.__dict__.update(
            __all__=ALL,
            __version__=VERSION,
            # The finder alone says what there is: nothing is looked for in folders.
            __path__=[],
            __package__="celery",
            __spec__=spec,
            __loader__=spec.loader,
            # Where it comes from, for who asks which Celery this is.
            __file__=__file__,
            SERIES="celeriac",
            VERSION_BANNER=f"{VERSION} (celeriac)",
            VERSION=version_info_t(major, minor, micro, "", ""),
            version_info=version_info_t(major, minor, micro, "", ""),
            version_info_t=version_info_t,
            maybe_patch_concurrency=_patch_nothing,
        )

    def __getattr__(self, name: str) -> Any:
        if name in ALL or name in _MORE:
            value = getattr(import_module("celeriac"), name)
        elif name in _MODULES:
            value = import_module(f"celery.{name}")
        else:
            raise AttributeError(f"module 'celery' has no attribute {name!r} (it is celeriac's stand-in)")
        self.__dict__[name] = value
        return value

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *ALL})


def _patch_nothing(*args: Any, **kwargs: Any) -> None:
    """Workers patch their own children for gevent; the process that starts them stays as it is."""
