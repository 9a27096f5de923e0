"""What hooks and signals are told of an exception."""

from __future__ import annotations

import sys
import traceback as tracebacks
from types import TracebackType


class ExceptionInfo:
    """An exception with the text of its traceback. `str()` gives the text.

    Args:
        exc: What was raised.
        skip: Frames of the worker itself, at the outer end, that are left out.
        traceback: The text, when there is no traceback to make it of.
    """

    __slots__ = ("exception", "tb", "traceback", "type")

    def __init__(self, exc: BaseException, *, skip: int = 0, traceback: str | None = None) -> None:
        self.type: type[BaseException] = type(exc)
        self.exception = exc
        self.tb: TracebackType | None = exc.__traceback__
        for _ in range(skip):
            if self.tb is not None and self.tb.tb_next is not None:
                self.tb = self.tb.tb_next
        self.traceback = traceback if traceback is not None else self._text()

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # Libraries ask whether it is billiard's, where that is loaded: to `isinstance` it is both.
        billiard = sys.modules.get("billiard.einfo")
        found: type = ExceptionInfo if billiard is None else billiard.ExceptionInfo
        return found

    def _text(self) -> str:
        try:
            return "".join(tracebacks.format_exception(self.type, self.exception, self.tb))
        except Exception as failed:  # An exception whose own `__str__` raises must not hide what happened.
            frames = "".join(tracebacks.format_tb(self.tb))
            return f"{frames}{self.type.__name__}: (its text cannot be shown: {failed!r})\n"

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"


def safe_repr(exc: BaseException) -> str:
    """The repr of an exception, whatever its own `__repr__` does."""
    try:
        return repr(exc)
    except Exception:
        return f"<{type(exc).__name__}: repr() failed>"
