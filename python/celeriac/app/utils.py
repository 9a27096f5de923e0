"""Settings, bug reports and finding apps, in the place where Celery has them."""

from __future__ import annotations

from typing import Any

from celeriac.app.bugreport import bugreport
from celeriac.app.settings import Settings

__all__ = ["Settings", "appstr", "bugreport", "find_app", "sanitize_url"]


def appstr(app: Any) -> str:
    """What an app is called in the repr of its parts."""
    return f"{app.main or '__main__'} at {id(app):#x}"


def find_app(app: str, symbol_by_name: Any = None, imp: Any = None) -> Any:
    """Finds an app by its path, as `-A` does.

    Raises:
        AppNotFound: There is none.
    """
    from celeriac.app.find_app import find_app as find

    return find(app)


def sanitize_url(url: str) -> str:
    """A URL without its password."""
    from celeriac.utils.urls import without_password

    return without_password(url)
