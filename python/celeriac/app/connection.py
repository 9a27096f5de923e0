"""`app.connection()`: what code written for Celery passes around. The engine has the real connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac.exceptions import OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from celeriac.app.base import Celery

__all__ = ["Connection"]


class Transport:
    """Names the kind of broker, as kombu does.

    Args:
        scheme: Of the broker's URL.
    """

    def __init__(self, scheme: str) -> None:
        base = scheme.partition("+")[0]
        kinds = {"rediss": "redis", "sentinel": "redis", "amqps": "amqp", "pyamqp": "amqp", "sqlite": "sqlite"}
        self.driver_type = self.driver_name = kinds.get(base, base)


class Connection:
    """Stands for the connection to an app's broker, which the engine opens, shares and renews by itself.

    Args:
        app: Whose broker.
        url: Its URL.
    """

    connection_errors: tuple[type[BaseException], ...] = (OperationalError, OSError)
    recoverable_connection_errors = connection_errors
    channel_errors: tuple[type[BaseException], ...] = ()
    recoverable_channel_errors = channel_errors

    def __init__(self, app: Celery, url: str) -> None:
        self.app = app
        self._url = url
        self.transport = Transport(url.partition(":")[0])
        self.transport_cls = self.transport.driver_type

    def as_uri(self, include_password: bool = False, **kwargs: Any) -> str:
        """The broker's URL, without its password unless asked for."""
        return self._url if include_password else self.app.client.broker_url()

    @property
    def connected(self) -> bool:
        """Whether the broker answers now."""
        try:
            self.connect()
        except OperationalError:
            return False
        return True

    def connect(self) -> Connection:
        """Asks the broker something.

        Raises:
            OperationalError: It does not answer.
        """
        self.app.client.queues()
        return self

    def ensure_connection(
        self,
        errback: Callable[[BaseException, float], Any] | None = None,
        max_retries: int | None = None,
        interval_start: float = 2,
        interval_step: float = 2,
        interval_max: float = 30,
        **kwargs: Any,
    ) -> Connection:
        """Waits until the broker answers.

        Args:
            errback: Called with each error, and the seconds until the next try.
            max_retries: Further tries; None is no limit.
            interval_start: Seconds before the second try.
            interval_step: More of them before each one after it.
            interval_max: At the most.
            **kwargs: Accepted for compatibility.

        Raises:
            OperationalError: It did not answer the last try.
        """
        import time

        tries, interval = 0, float(interval_start)
        while True:
            try:
                return self.connect()
            except OperationalError as exc:
                if max_retries is not None and tries >= max_retries:
                    raise
                if errback is not None:
                    errback(exc, interval)
            time.sleep(interval)
            tries, interval = tries + 1, min(interval + interval_step, interval_max)

    def clone(self, **kwargs: Any) -> Connection:
        """Another one like it."""
        return Connection(self.app, self._url)

    def channel(self) -> Connection:
        """There are no channels here: itself."""
        return self

    @property
    def default_channel(self) -> Connection:
        """As `channel()`."""
        return self

    @property
    def client(self) -> Connection:
        """Itself: what a channel of kombu answers with its connection."""
        return self

    @property
    def connection(self) -> Connection:
        """As above."""
        return self

    def release(self) -> None:
        """Nothing to do: the engine's connections are the app's."""

    close = release

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Connection: {self.transport.driver_type}>"
