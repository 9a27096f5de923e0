"""`app.lock`: one holder at a time among all processes of an app, in the store that keeps its keys."""

from __future__ import annotations

import asyncio
import os
import random
import time
from types import TracebackType
from typing import TYPE_CHECKING

from celeriac.exceptions import LockNotAcquired

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["Lock"]

#: Seconds between two looks at a lock that another holds; they grow.
_FIRST_LOOK, _LONGEST_LOOK = 0.01, 0.25


class Lock:
    """A lock with a name, held for `ttl` seconds at the most.

    It is not reentrant: who holds it and asks for it again waits for itself. A holder that takes longer than `ttl` has
    lost it, whether it knows or not: call `extend` in between, or give `fence` to whatever it protects, which refuses a
    number smaller than one that it has seen.

    Example:
        >>> with app.lock("stock:42", ttl=30, wait=5) as lock:
        ...     warehouse.write(item, fence=lock.fence)

    Args:
        app: Whose store.
        name: Of the lock.
        ttl: Seconds after which it is free, whatever its holder does.
        wait: Seconds to wait for it; None: for as long as it takes.
    """

    def __init__(self, app: Celery, name: str, ttl: float = 60.0, wait: float | None = 0.0) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"a lock has a name, not {name!r}")
        if ttl <= 0:
            raise ValueError(f"ttl is a number of seconds above 0, not {ttl!r}")
        self.name = name
        self.ttl = ttl
        self.wait = wait
        #: Grows with every lock that is taken in the store; None while it is not held.
        self.fence: int | None = None
        self._app = app
        self._key = f"lock:{name}"
        self._token: str | None = None

    @property
    def held(self) -> bool:
        """Whether it was taken and not released. It may have run out."""
        return self._token is not None

    def try_acquire(self) -> bool:
        """Takes it if nobody has it.

        Raises:
            OperationalError: The store does not answer.
            ImproperlyConfigured: Neither the broker nor the result backend keeps keys.
        """
        if self._token is not None:
            raise RuntimeError(f"this lock {self.name!r} is held already: a lock is not reentrant")
        token = os.urandom(12).hex()
        fence = self._app.client.lock(self._key, token, _ms(self.ttl))
        if fence is None:
            return False
        self._token, self.fence = token, fence
        return True

    def acquire(self) -> Lock:
        """Takes it, waiting as long as `wait` says.

        Raises:
            LockNotAcquired: Another has it all that time.
            OperationalError: The store does not answer.
        """
        looks = _Looks(self.wait)
        while not self.try_acquire():
            time.sleep(looks.next(self.name))
        return self

    async def aacquire(self) -> Lock:
        """The same for a coroutine."""
        looks = _Looks(self.wait)
        while not await asyncio.to_thread(self.try_acquire):  # noqa: ASYNC110 -- no store tells when a lock is free
            await asyncio.sleep(looks.next(self.name))
        return self

    def extend(self, ttl: float | None = None) -> None:
        """Holds it for `ttl` seconds from now (as when it was taken, unless given).

        Raises:
            LockNotAcquired: It is not held any more: it ran out.
        """
        if self._token is None or not self._app.client.renew_key(self._key, self._token, _ms(ttl or self.ttl)):
            raise LockNotAcquired(f"lock {self.name!r} is not held any more: it ran out")

    async def aextend(self, ttl: float | None = None) -> None:
        """The same for a coroutine."""
        await asyncio.to_thread(self.extend, ttl)

    def release(self) -> bool:
        """Gives it back. False when it was not held any more: it ran out, and another may have had it since."""
        token, self._token, self.fence = self._token, None, None
        return token is not None and self._app.client.free_keys([(self._key, token)])[0]

    async def arelease(self) -> bool:
        """The same for a coroutine."""
        return await asyncio.to_thread(self.release)

    def __enter__(self) -> Lock:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    async def __aenter__(self) -> Lock:
        return await self.aacquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.arelease()

    def __repr__(self) -> str:
        return f"<Lock {self.name!r} {f'held, fence {self.fence}' if self.held else 'not held'}>"


class _Looks:
    """The waits between two looks, up to a deadline."""

    def __init__(self, wait: float | None) -> None:
        self._until = None if wait is None else time.monotonic() + wait
        self._next = _FIRST_LOOK

    def next(self, name: str) -> float:
        """Seconds until the next look."""
        # Not all at the same moment.
        pause = self._next * random.uniform(0.5, 1.0)
        self._next = min(2 * self._next, _LONGEST_LOOK)
        if self._until is not None:
            left = self._until - time.monotonic()
            if left <= 0:
                raise LockNotAcquired(f"lock {name!r} is held by another")
            pause = min(pause, left)
        return pause


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
