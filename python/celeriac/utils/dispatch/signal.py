"""The class of signals, with arguments as Celery's has them."""

from __future__ import annotations

from collections.abc import Iterable

from celeriac._dispatch import Signal as _Signal

__all__ = ["Signal"]


class Signal(_Signal):
    """A signal.

    Args:
        providing_args: Names of the arguments that receivers are given.
        use_caching: Accepted for compatibility.
        name: For logs.
    """

    def __init__(
        self, providing_args: Iterable[str] | None = None, use_caching: bool = False, name: str | None = None
    ) -> None:
        super().__init__(set(providing_args or ()), name or "signal")
        self.use_caching = use_caching
