"""What the worker shows of itself when it starts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from celeriac.app import stores
from celeriac.utils.urls import without_password

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.worker.supervisor import WorkController


def banner(worker: WorkController, app: Celery) -> str:
    """The banner's text. Passwords in URLs are not shown."""
    from celeriac import __version__

    conf, writes = app.conf, app.broker_url_effective
    lines = [
        "",
        f" celeriac {__version__}  {worker.hostname}",
        "",
        " [config]",
        f"   app:          {app.main or '__main__'}",
        f"   transport:    {without_password(app.broker_read_url_effective)}",
        *([f"   publishes to: {without_password(writes)}"] if writes != app.broker_read_url_effective else []),
        f"   results:      {stores.shown_backend(app)}",
        f"   concurrency:  {worker.concurrency} ({worker.arguments.pool})",
        f"   task events:  {'ON' if conf.worker_send_task_events else 'OFF (enable -E to monitor tasks in this worker)'}",
    ]
    if app.uses_embedded_broker:
        lines.append("   No broker is named: the embedded one keeps messages and results in this file.")
    lines += ["", " [queues]", *(f"   . {queue}" for queue in worker.queues)]
    if logging.getLogger().isEnabledFor(logging.INFO):
        names = sorted(name for name in app.tasks if not name.startswith(("celery.", "celeriac.")))
        lines += ["", " [tasks]", *(f"   . {name}" for name in names)]
    return "\n".join([*lines, ""])
