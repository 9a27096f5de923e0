"""Finds `celery` and everything below it in celeriac; nothing falls through to a Celery that is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from celeriac.compat.facade import CeleryModule

if TYPE_CHECKING:
    from importlib.metadata import Distribution, DistributionFinder

#: Modules of Celery whose counterpart has another place here.
ELSEWHERE = {
    "celery.execute": "celeriac.compat.old_names",
    "celery.registry": "celeriac.compat.old_names",
}
#: Modules of ours that Celery has not.
_OURS_ALONE = frozenset({"_core", "_dispatch", "compat", "entities", "foreign"})


class CeleryFinder(MetaPathFinder):
    """First of `sys.meta_path` when the alias is installed. Holds no state."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module behind a name of Celery's.

        Raises:
            ModuleNotFoundError: celeriac has none of that name.
        """
        if fullname == "celery":
            return spec_of_celery()
        if not fullname.startswith("celery."):
            return None
        ours = counterpart(fullname)
        found = find_ours(ours)
        if found is None:
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: celery is celeriac here, which has nothing that stands for it "
                "(docs/import-celery.md lists what there is)",
                name=fullname,
            )
        package = found.submodule_search_locations is not None
        return ModuleSpec(fullname, AliasLoader(ours), origin=found.origin, is_package=package)

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterator[Distribution]:
        """Celery, as libraries that look at its version expect it."""
        if context is None or context.name is None or context.name.lower() == "celery":
            from celeriac.compat.distribution import CeleryDistribution

            yield CeleryDistribution()


class AliasLoader(InspectLoader):
    """Gives a module of celeriac under a name of Celery's: the same object, whichever name asks first."""

    def __init__(self, ours: str) -> None:
        self._ours = ours
        # What the import machinery writes over, between the two calls below.
        self._spec: Any = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module, imported under its own name."""
        module = import_module(self._ours)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do, but to let the module have its own spec again."""
        module.__spec__ = self._spec

    def is_package(self, fullname: str) -> bool:
        """Whether it has submodules."""
        found = find_ours(self._ours)
        return found is not None and found.submodule_search_locations is not None

    def get_code(self, fullname: str) -> CodeType | None:
        """For `python -m`."""
        loader = _inspect_loader(self._ours)
        return None if loader is None else loader.get_code(self._ours)

    def get_source(self, fullname: str) -> str | None:
        """For tracebacks and debuggers."""
        loader = _inspect_loader(self._ours)
        return None if loader is None else loader.get_source(self._ours)


class PackageLoader(AliasLoader):
    """Gives the package `celery`."""

    def __init__(self) -> None:
        super().__init__("celeriac")

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The one that there is, or another where somebody has thrown it away."""
        present = sys.modules.get("celery")
        made = present if isinstance(present, CeleryModule) else CeleryModule()
        self._spec = made.__spec__
        return made


def spec_of_celery() -> ModuleSpec:
    """The spec of the package."""
    return ModuleSpec("celery", PackageLoader(), is_package=True)


def counterpart(fullname: str) -> str:
    """The name here of a module of Celery's, whether there is one or not."""
    return ELSEWHERE.get(fullname) or f"celeriac.{fullname.removeprefix('celery.')}"


def find_ours(name: str) -> ModuleSpec | None:
    """The spec of a module of celeriac's; None when there is none, or it is no business of Celery's users."""
    if name.split(".")[1] in _OURS_ALONE and name not in ELSEWHERE.values():
        return None
    try:
        return find_spec(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and not name.startswith(exc.name):
            raise  # a module of ours wants a package that is not installed
        return None


def _inspect_loader(name: str) -> InspectLoader | None:
    found = find_spec(name)
    loader = None if found is None else found.loader
    return loader if isinstance(loader, InspectLoader) else None
