"""The command line, under the names that libraries import: `celery` is the group of all commands."""

from __future__ import annotations

from typing import Any

from celeriac.bin import celeriac as celery

__all__ = ["celery", "main"]


def main() -> Any:
    """Runs the command line."""
    from celeriac.__main__ import main as run

    run()
