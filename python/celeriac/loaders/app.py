"""The loader of apps."""

from __future__ import annotations

from celeriac.loaders.base import BaseLoader

__all__ = ["AppLoader"]


class AppLoader(BaseLoader):
    """The loader of apps."""
