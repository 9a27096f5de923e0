"""Values of ours that the result backend keeps beside the results: bytes under a key, with a time to live.

The engine's backends keep them under `celeriac:<key>`; one that is written in Python through its `set`, `get` and
`delete`, if it has them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celeriac.exceptions import ImproperlyConfigured
from celeriac.utils.blocking import off_the_loop

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["KeptValues", "kept_values", "seconds"]

_PREFIX = "celeriac:"


class KeptValues:
    """The values of one app.

    Args:
        app: Whose result backend keeps them.
        what: What they are for, as errors say.
    """

    def __init__(self, app: Celery, what: str) -> None:
        self._app, self._what = app, what

    def put(self, key: str, value: bytes, ttl: float | None) -> None:
        """Keeps a value, over what was there before.

        Args:
            key: Its name.
            value: Its bytes.
            ttl: Seconds; None: for ever. A backend written in Python keeps it as long as it keeps results.

        Raises:
            ImproperlyConfigured: There is no result backend that keeps values.
            OperationalError: It does not answer.
        """
        milliseconds = None if ttl is None else max(1, int(ttl * 1000))
        try:
            self._client().put_value(key, value, milliseconds)
        except NotImplementedError as exc:
            raise self._unsupported() from exc

    def get(self, key: str) -> bytes | None:
        """A value; None where there is none.

        Raises:
            ImproperlyConfigured, OperationalError: As above.
        """
        try:
            found: bytes | None = self._client().read_value(key)
            return found
        except NotImplementedError as exc:
            raise self._unsupported() from exc

    def delete(self, key: str) -> None:
        """Removes a value.

        Raises:
            ImproperlyConfigured, OperationalError: As above.
        """
        try:
            self._client().delete_values([key])
        except NotImplementedError as exc:
            raise self._unsupported() from exc

    def _client(self) -> Any:
        if not self._app.results_enabled:
            raise self._unsupported()
        return self._app.client

    def _unsupported(self) -> ImproperlyConfigured:
        return ImproperlyConfigured(
            f"{self._what} need a result backend that keeps values: set result_backend to a Redis server, or to the file of "
            "the embedded broker"
        )


class _BackendValues(KeptValues):
    """The same for a backend that is written in Python."""

    def put(self, key: str, value: bytes, ttl: float | None) -> None:
        self._call("set", _PREFIX + key, value)

    def get(self, key: str) -> bytes | None:
        value = self._call("get", _PREFIX + key)
        return value.encode() if isinstance(value, str) else None if value is None else bytes(value)

    def delete(self, key: str) -> None:
        self._call("delete", _PREFIX + key)

    def _call(self, name: str, *args: Any) -> Any:
        method = getattr(self._app.backend, name, None)
        if method is None:
            raise self._unsupported()
        return off_the_loop(method, *args)


def kept_values(app: Celery, what: str) -> KeptValues:
    """The values that an app's result backend keeps."""
    return _BackendValues(app, what) if app.has_own_backend else KeptValues(app, what)


def seconds(value: float | timedelta | None) -> float | None:
    """A time to live, as settings have it; None: for ever."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    return float(value) if value else None
