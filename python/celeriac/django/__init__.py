"""celeriac in a Django project: a backend of Django's task framework, and URLs that show tasks.

What a project that was written for Celery needs is installed by every app of itself (`celeriac.fixups.django`), not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celeriac.django.backend import CeleriacBackend
    from celeriac.django.urls import tasks_urls
    from celeriac.web import allow_all

__all__ = ["CeleriacBackend", "allow_all", "tasks_urls"]

#: Each is imported when it is asked for: the URLs do without Django's task framework.
_HOMES = {
    "CeleriacBackend": "celeriac.django.backend",
    "allow_all": "celeriac.web",
    "tasks_urls": "celeriac.django.urls",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "app":
        # Of a project that has none of its own: for `-A celeriac.django`.
        return import_module("celeriac.django.backend").own_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
