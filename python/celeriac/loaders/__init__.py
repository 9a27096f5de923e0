"""How an app's modules are imported. Settings are read by `app.conf` itself."""

from __future__ import annotations

from typing import Any

from celeriac.utils.imports import symbol_by_name

__all__ = ["get_loader_cls"]

LOADER_ALIASES = {"app": "celeriac.loaders.app:AppLoader", "default": "celeriac.loaders.default:Loader"}


def get_loader_cls(loader: Any) -> Any:
    """The class of a loader by its short name or its path."""
    return symbol_by_name(LOADER_ALIASES.get(loader, loader) if isinstance(loader, str) else loader)
