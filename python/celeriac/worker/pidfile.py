"""The pid file of a worker: one worker for each."""

from __future__ import annotations

from celeriac.exceptions import ImproperlyConfigured
from celeriac.platforms import LockFailed, Pidfile


class PidFile(Pidfile):
    """Created at start, removed at exit. One left by a process that is gone is replaced."""

    def acquire(self) -> PidFile:
        """Writes this process' id.

        Raises:
            ImproperlyConfigured: Another process that lives holds it, or it cannot be written.
        """
        try:
            super().acquire()
        except LockFailed as exc:
            raise ImproperlyConfigured(str(exc)) from exc
        return self
