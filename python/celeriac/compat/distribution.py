"""What `importlib.metadata` says of `celery`."""

from __future__ import annotations

from importlib.metadata import Distribution
from os import PathLike
from pathlib import Path
from typing import Any

from celeriac.compat import VERSION


class CeleryDistribution(Distribution):
    """A name and a version; it has no files, and no entry points."""

    def read_text(self, filename: str) -> str | None:
        """Its metadata; it has no other files."""
        if filename in {"METADATA", "PKG-INFO"}:
            return f"Metadata-Version: 2.1\nName: celery\nVersion: {VERSION}\n"
        return None

    def locate_file(self, path: str | PathLike[str]) -> Any:
        """Below celeriac, where there is none of them."""
        return Path(__file__).parent / path
