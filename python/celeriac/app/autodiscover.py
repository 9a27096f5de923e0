"""Imports the modules in which tasks are declared."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

__all__ = ["autodiscover", "find_related_module"]


def autodiscover(packages: Iterable[str], related_name: str | None) -> list[ModuleType]:
    """Imports `<package>.<related_name>` of each package that has one."""
    found = (find_related_module(package, related_name) for package in packages)
    return [module for module in found if module is not None]


def find_related_module(package: str, related_name: str | None) -> ModuleType | None:
    """Imports one; None when the package has no such module. An error inside the module is raised."""
    if not related_name:
        return import_module(package)
    try:
        imported = import_module(package)
    except ModuleNotFoundError as exc:
        parent, _, _ = package.rpartition(".")
        # `package` may be the path of a class (Django's app configs): look beside it.
        if not parent or exc.name != package:
            raise
        return find_related_module(parent, related_name)
    if not hasattr(imported, "__path__"):
        return None
    name = f"{package}.{related_name}"
    if find_spec(name) is None:
        return None
    return import_module(name)
