"""The loader of the default app."""

from __future__ import annotations

from celeriac.loaders.base import BaseLoader

__all__ = ["DEFAULT_CONFIG_MODULE", "Loader"]

DEFAULT_CONFIG_MODULE = "celeryconfig"


class Loader(BaseLoader):
    """The loader of the default app."""
