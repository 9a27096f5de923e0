"""The pid file: one worker for each."""

from __future__ import annotations

import os

from celeriac.exceptions import ImproperlyConfigured


class PidFile:
    """Created at start, removed at exit. One left by a process that is gone is replaced."""

    def __init__(self, path: str) -> None:
        self._path = path

    def acquire(self) -> None:
        """Writes this process' id.

        Raises:
            ImproperlyConfigured: Another process that lives holds it, or it cannot be written.
        """
        for _ in range(2):
            try:
                descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                self._remove_stale()
                continue
            except OSError as exc:
                raise ImproperlyConfigured(f"the pid file {self._path!r} cannot be written: {exc.strerror}") from exc
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{os.getpid()}\n")
            return
        raise ImproperlyConfigured(f"the pid file {self._path!r} was taken by another process just now")

    def release(self) -> None:
        """Removes it, when it is still ours."""
        if self._owner() == os.getpid():
            os.unlink(self._path)

    def _remove_stale(self) -> None:
        owner = self._owner()
        if owner is not None and owner != os.getpid() and _lives(owner):
            raise ImproperlyConfigured(f"the pid file {self._path!r} says that process {owner} runs already")
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def _owner(self) -> int | None:
        try:
            with open(self._path) as file:
                return int(file.read().strip())
        except (OSError, ValueError):
            return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
