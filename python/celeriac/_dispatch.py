"""Signals: connects receivers and calls them.

A receiver never breaks the sender: what it raises is logged and kept as its answer.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

Receiver = Callable[..., Any]

#: `inspect.CO_VARKEYWORDS`; the module would be the largest import here.
_CO_VARKEYWORDS = 0x08

_RETRY_DELAYS = (0.1, 0.5, 2.0)


def _identity(target: Any) -> Any:
    """What tells receivers and senders apart: text by value, a method by its parts, the rest by id."""
    resolve = getattr(type(target), "_get_current_object", None)
    if resolve is not None:
        target = resolve(target)
    if isinstance(target, (str, bytes)):
        return target
    function = getattr(target, "__func__", None)
    if function is not None:
        return id(target.__self__), id(function)
    return id(target)


def _is_proxy(sender: Any) -> bool:
    return hasattr(type(sender), "_get_current_object")


def _wanted(sender: Any) -> Any:
    """What tells wanted senders apart. A proxy is not looked behind before something is sent: a shared task would
    finalise whatever app is current."""
    if sender is None:
        return None
    return ("proxy", id(sender)) if _is_proxy(sender) else _identity(sender)


def _takes_keywords(fun: Receiver) -> bool:
    """Whether a receiver takes arguments that it does not name; assumed of what cannot be looked into."""
    code = getattr(getattr(fun, "__func__", fun), "__code__", None)
    return code is None or bool(code.co_flags & _CO_VARKEYWORDS)


class Signal:
    """Something that happens, and whom it is told.

    Args:
        providing_args: Names of what `send` passes; for people to read.
        name: For logs.
    """

    #: Fast test for senders on hot paths: empty means that `send` has nothing to do. Replaced as a whole
    #: under the lock by connect and disconnect, read without it.
    receivers: tuple[tuple[tuple[Any, Any], Any, bool, Any], ...]

    def __init__(self, providing_args: set[str] | None = None, name: str = "") -> None:
        self.providing_args = frozenset(providing_args or ())
        self.name = name
        self.receivers = ()
        self._lock = threading.RLock()

    def connect(
        self,
        fun: Receiver | None = None,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Any = None,
        retry: bool = False,
    ) -> Any:
        """Connects a receiver; also a decorator, with or without arguments.

        Args:
            fun: Called with `signal`, `sender` and what the signal provides, all but the sender by name.
            sender: Only when this one sends (a task, or text such as a task name).
            weak: Forget the receiver when nobody else holds it.
            dispatch_uid: Connects only once under this name.
            retry: Try a receiver that raises again a few times.

        Raises:
            TypeError: The receiver cannot be called.
            ValueError: It does not take keyword arguments: what a signal passes may grow.
        """
        if fun is None:
            return lambda function: self.connect(function, sender, weak, dispatch_uid, retry)
        if not callable(fun):
            raise TypeError(f"a signal receiver must be callable: {fun!r} is not")
        if not _takes_keywords(fun):
            raise ValueError(f"signal receiver {fun!r} must accept keyword arguments (**kwargs)")
        key = (dispatch_uid or _identity(fun), _wanted(sender))
        entry = (key, self._hold(fun, weak), retry, sender if _is_proxy(sender) else None)
        with self._lock:
            # The first one of a key stays, as with Celery: a module that is imported twice connects once.
            if all(known[0] != key for known in self.receivers):
                self.receivers = (*self.receivers, entry)
        return fun

    def disconnect(
        self, receiver: Receiver | None = None, sender: Any = None, weak: bool | None = None, dispatch_uid: Any = None
    ) -> bool:
        """Disconnects a receiver; tells whether it was connected."""
        who = dispatch_uid or _identity(receiver)
        key = (who, _wanted(sender))
        with self._lock:
            before = len(self.receivers)
            self.receivers = tuple(entry for entry in self.receivers if entry[0] != key)
            return len(self.receivers) != before

    def has_listeners(self, sender: Any = None) -> bool:
        """Whether a send from this sender would reach anybody."""
        return bool(self._live(sender))

    def send(self, sender: Any, **named: Any) -> list[tuple[Receiver, Any]]:
        """Calls every receiver; gives (receiver, its answer or what it raised)."""
        if not self.receivers:
            return []
        responses: list[tuple[Receiver, Any]] = []
        for receiver, retry in self._live(sender):
            try:
                response = self._call(receiver, retry, sender, named)
            except Exception as exc:
                # Imported here: a process whose receivers behave has no use for it.
                import logging

                logging.getLogger("celery.utils.dispatch.signal").exception(
                    "Signal handler %r raised: %r", receiver, exc
                )
                response = exc
            responses.append((receiver, response))
        return responses

    send_robust = send

    def _call(self, receiver: Receiver, retry: bool, sender: Any, named: dict[str, Any]) -> Any:
        for delay in _RETRY_DELAYS if retry else ():
            try:
                return receiver(signal=self, sender=sender, **named)
            except Exception:
                time.sleep(delay)
        return receiver(signal=self, sender=sender, **named)

    def _live(self, sender: Any) -> list[tuple[Receiver, bool]]:
        sender_id = None if sender is None else _identity(sender)
        live: list[tuple[Receiver, bool]] = []
        for (_, wanted), held, retry, proxy in self.receivers:
            if wanted is None or (wanted if proxy is None else _identity(proxy)) == sender_id:
                receiver = held() if isinstance(held, weakref.ReferenceType) else held
                if receiver is not None:
                    live.append((receiver, retry))
        return live

    def _hold(self, fun: Receiver, weak: bool) -> Any:
        if not weak:
            return fun
        try:
            if hasattr(fun, "__self__") and hasattr(fun, "__func__"):
                return weakref.WeakMethod(fun, self._forget)
            return weakref.ref(fun, self._forget)
        except TypeError:
            return fun

    def _forget(self, reference: Any) -> None:
        with self._lock:
            self.receivers = tuple(entry for entry in self.receivers if entry[1] is not reference)

    def __repr__(self) -> str:
        return f"<Signal: {self.name}>"
