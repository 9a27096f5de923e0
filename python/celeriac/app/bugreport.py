"""What to put into a bug report: versions and settings, secrets masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celeriac._core import __version__
from celeriac.app.stores import shown_backend

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["bugreport"]


def bugreport(app: Celery | None = None) -> str:
    """Versions of everything that matters, broker, backend and the settings that are not defaults."""
    import platform

    from celeriac._state import app_or_default

    app = app_or_default(app)
    lines = (
        f"software -> celeriac:{__version__} py:{platform.python_version()}",
        f"platform -> system:{platform.system()} arch:{platform.machine()} imp:{platform.python_implementation()}",
        f"broker   -> {app.conf.table(with_defaults=True)['broker_url'] or app.broker_url_effective}",
        f"results  -> {shown_backend(app) if app.results_enabled else 'off'}",
        "",
        app.conf.humanize(),
    )
    return "\n".join(lines)
