"""The service manager (systemd) that started the worker, as the environment tells."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """What the environment says of it. Taken out of the environment: children are not to speak to it."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._environment = environment
        self._taken = {name: environment.pop(name) for name in _VARIABLES if name in environment}

    def options(self) -> dict[str, Any]:
        """Options of the engine's worker."""
        socket = self._taken.get("NOTIFY_SOCKET", "")
        if not socket.startswith(("/", "@")):
            return {}
        meant_for = self._taken.get("WATCHDOG_PID")
        try:
            micros = int(self._taken.get("WATCHDOG_USEC", "0"))
        except ValueError:
            micros = 0
        if meant_for not in (None, str(os.getpid())):
            micros = 0
        return {"notify_socket": socket, "watchdog_seconds": micros / 1e6 if micros > 0 else None}

    def restore(self) -> None:
        """Puts it back, for a worker that takes the place of this one in the same process."""
        self._environment.update(self._taken)
