"""Connections of commands that look at messages themselves, apart from the app's own client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celeriac.utils.nodenames import gethostname, nodename

if TYPE_CHECKING:
    from celeriac._core import Client
    from celeriac.app.base import Celery
    from celeriac.entities import Queue


def client_for(app: Celery, url: str, *queues: Queue) -> Client:
    """A client of any broker, without results, by the settings of an app.

    Args:
        app: Whose queues are declared, and whose connection settings hold.
        url: The broker.
        *queues: Declared instead of the app's queues of these names.

    Raises:
        ImproperlyConfigured: A setting or the URL is wrong.
    """
    from celeriac._core import Client
    from celeriac.app.stores import connection_options

    options = connection_options(app, worker=False)
    options["reply_queue"] = None
    for queue in queues:
        options["topology"]["queues"][queue.name] = queue.declaration()
    return Client(url, None, options)


def consumer_name(command: str) -> str:
    """The node name under which a command takes messages: one for each process."""
    return nodename(f"{command}{os.getpid()}", gethostname())
