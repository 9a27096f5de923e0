"""`Polaroid`: looks at the state of a cluster at intervals, for those who keep it somewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from celeriac._dispatch import Signal
from celeriac.app.current import app_or_default
from celeriac.utils.imports import symbol_by_name

__all__ = ["Polaroid", "evcam"]

logger = logging.getLogger("celery.evcam")

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Timer:
    """Calls functions at intervals, on a thread of its own."""

    def call_repeatedly(self, interval: float, function: Callable[[], Any]) -> Repeater:
        """Calls `function` every so many seconds until the answer is cancelled."""
        return Repeater(interval, function)


class Repeater:
    """One function that is called at intervals; calling it calls the function now."""

    def __init__(self, interval: float, function: Callable[[], Any]) -> None:
        self._interval, self._function = interval, function
        self._cancelled = threading.Event()
        threading.Thread(target=self._run, name="celeriac-snapshots", daemon=True).start()

    def _run(self) -> None:
        while not self._cancelled.wait(self._interval):
            try:
                self._function()
            except Exception:
                logger.exception("A snapshot failed")

    def __call__(self) -> None:
        self._function()

    def cancel(self) -> None:
        """No more calls."""
        self._cancelled.set()


class Polaroid:
    """Takes a picture of the state at intervals: subclasses have `on_shutter(state)`.

    Args:
        state: Of the cluster.
        freq: Seconds between pictures.
        maxrate: Pictures at the most: `10/m`.
        cleanup_freq: Seconds between calls of `on_cleanup`.
        timer: Something with `call_repeatedly(seconds, function)`.
        app: The app.

    Example:
        >>> class Camera(Polaroid):
        ...     clear_after = True
        ...     def on_shutter(self, state):
        ...         print(state.event_count, "events")
    """

    timer: Any = None
    shutter_signal = Signal({"state"}, "shutter_signal")
    cleanup_signal = Signal(set(), "cleanup_signal")
    #: Forget everything after each picture.
    clear_after = False

    def __init__(
        self,
        state: Any,
        freq: float = 1.0,
        maxrate: Any = None,
        cleanup_freq: float = 3600.0,
        timer: Any = None,
        app: Any = None,
    ) -> None:
        self.app = app_or_default(app)
        self.state = state
        self.freq = freq
        self.cleanup_freq = cleanup_freq
        self.timer = timer or self.timer or Timer()
        self.logger = logger
        self._least_gap = 1 / _per_second(maxrate) if maxrate else 0.0
        self._last: float | None = None
        self._repeaters: list[Any] = []

    def install(self) -> None:
        """Begins."""
        self._repeaters = [
            self.timer.call_repeatedly(self.freq, self.capture),
            self.timer.call_repeatedly(self.cleanup_freq, self.cleanup),
        ]

    def on_shutter(self, state: Any) -> None:
        """Called with the state, which does not change meanwhile."""

    def on_cleanup(self) -> None:
        """Called rarely."""

    def cleanup(self) -> None:
        """Calls `on_cleanup`."""
        self.cleanup_signal.send(sender=self.state)
        self.on_cleanup()

    def shutter(self) -> None:
        """Calls `on_shutter`, unless that was a moment ago."""
        now = time.monotonic()
        if self._last is not None and now - self._last < self._least_gap:
            return
        self._last = now
        logger.debug("Shutter: %s", self.state)
        self.shutter_signal.send(sender=self.state, state=self.state)
        self.on_shutter(self.state)

    def capture(self) -> None:
        """Takes a picture."""
        self.state.freeze_while(self.shutter, clear_after=self.clear_after)

    def cancel(self) -> None:
        """Takes a last picture, and ends."""
        if self._repeaters:
            self.capture()
        for repeater in self._repeaters:
            repeater.cancel()
        self._repeaters = []

    def __enter__(self) -> Polaroid:
        self.install()
        return self

    def __exit__(self, *exc: object) -> None:
        self.cancel()


def _per_second(rate: Any) -> float:
    if isinstance(rate, (int, float)):
        return float(rate)
    number, _, unit = str(rate).partition("/")
    return float(number) / _UNITS[unit or "s"]


def evcam(
    camera: Any,
    freq: float = 1.0,
    maxrate: Any = None,
    loglevel: Any = 0,
    logfile: str | None = None,
    timer: Any = None,
    app: Any = None,
    **kwargs: Any,
) -> None:
    """Hears events, and takes pictures with a camera until it is interrupted.

    Args:
        camera: A subclass of `Polaroid`, or where it is.
        freq: Seconds between pictures.
        maxrate: Pictures at the most.
        loglevel: Of the log.
        logfile: Where the log goes.
        timer: See `Polaroid`.
        app: The app.
        **kwargs: Accepted for compatibility.
    """
    app = app_or_default(app)
    logging.basicConfig(level=loglevel or logging.WARNING, filename=logfile)
    logger.info("Taking snapshots with %s (every %s secs.)", camera, freq)
    state = app.events.State()
    made = symbol_by_name(camera)(state, app=app, freq=freq, maxrate=maxrate, timer=timer)
    receiver = app.events.Receiver(app.connection_for_read(), handlers={"*": state.event})
    with made:
        try:
            receiver.capture(limit=None)
        except KeyboardInterrupt:
            raise SystemExit from None
