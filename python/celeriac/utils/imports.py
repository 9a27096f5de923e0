"""Finds objects by their path."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module, reload
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = [
    "NotAPackage",
    "cwd_in_path",
    "find_module",
    "gen_task_name",
    "import_from_cwd",
    "instantiate",
    "load_extension_class_names",
    "load_extension_classes",
    "module_file",
    "qualname",
    "reload_from_cwd",
    "symbol_by_name",
]


class NotAPackage(Exception):
    """A module is asked for below one that is no package."""


def qualname(obj: Any) -> str:
    """The full path of a class or function, or of an object's class."""
    named = obj if hasattr(obj, "__qualname__") else type(obj)
    module = getattr(named, "__module__", None)
    return f"{module}.{named.__qualname__}" if module else str(named.__qualname__)


def symbol_by_name(name: Any) -> Any:
    """Imports `package.module:attribute` or `package.module.attribute`; gives other objects back as they are."""
    if not isinstance(name, str):
        return name
    module_name, colon, path = name.partition(":")
    if not colon:
        module_name, _, path = name.rpartition(".")
    if not module_name:
        raise ValueError(f"{name!r} names no module")
    found: Any = import_module(module_name)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """Makes an object of a class given by name."""
    return symbol_by_name(name)(*args, **kwargs)


@contextmanager
def cwd_in_path() -> Iterator[None]:
    """Modules of the working directory can be imported within the block."""
    here = os.getcwd()
    if here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def find_module(module: str, path: Any = None, imp: Callable[[str], Any] | None = None) -> Any:
    """The spec of a module, which is not imported; None when there is none.

    Raises:
        NotAPackage: A part before the last is no package.
    """
    with cwd_in_path():
        *parents, _ = module.split(".")
        for place in range(1, len(parents) + 1):
            name = ".".join(parents[:place])
            if not hasattr((imp or import_module)(name), "__path__"):
                raise NotAPackage(name)
        return find_spec(module)


def import_from_cwd(module: str, imp: Callable[..., Any] | None = None, package: str | None = None) -> Any:
    """Imports a module that may be in the working directory."""
    with cwd_in_path():
        return (imp or import_module)(module, package=package)


def reload_from_cwd(module: ModuleType, reloader: Callable[[ModuleType], Any] | None = None) -> Any:
    """Imports a module again."""
    with cwd_in_path():
        return (reloader or reload)(module)


def module_file(module: ModuleType) -> str:
    """The path of a module's source."""
    name = module.__file__ or ""
    return name[:-1] if name.endswith(".pyc") else name


def load_extension_class_names(namespace: str) -> Iterator[tuple[str, str]]:
    """Names and paths of what packages offer as entry points."""
    from importlib.metadata import entry_points

    return ((point.name, point.value) for point in entry_points(group=namespace))


def load_extension_classes(namespace: str) -> Iterator[tuple[str, Any]]:
    """The same, imported; one that cannot be imported is warned of."""
    import warnings

    for name, path in load_extension_class_names(namespace):
        try:
            found = symbol_by_name(path)
        except (ImportError, SyntaxError) as exc:
            warnings.warn(f"cannot load the extension {path!r} of {namespace}: {exc!r}", stacklevel=2)
        else:
            yield name, found


def gen_task_name(app: Any, name: str, module_name: str | None) -> str:
    """`module.function`; in a script, the app's name or the script's instead of `__main__`."""
    module_name = module_name or "__main__"
    if module_name == "__main__":
        module_name = app.main or _script_name()
    return f"{module_name}.{name}"


def _script_name() -> str:
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if not path:
        return "__main__"
    stem: str = path.replace("\\", "/").rpartition("/")[2]
    return stem.removesuffix(".py") or "__main__"
