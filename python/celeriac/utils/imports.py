"""Finds objects by their path."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

__all__ = ["gen_task_name", "instantiate", "qualname", "symbol_by_name"]


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
