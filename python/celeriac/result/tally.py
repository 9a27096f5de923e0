"""Counts the tasks of each member of a set of results as they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celeriac.result.base import leaves, raise_if_failed, value_of

__all__ = ["Tally"]


class Tally:
    """Counts the tasks of each member as they end, and tells who wants to know."""

    def __init__(
        self,
        results: list[Any],
        propagate: bool,
        callback: Callable[[str, Any], Any] | None,
        on_message: Callable[[dict[str, Any]], Any] | None,
    ) -> None:
        self._propagate = propagate
        self._callback = callback
        self._on_message = on_message
        # The members that a task's result belongs to, and how many of the tasks of each have not ended, by identity.
        self._members: dict[int, list[Any]] = {}
        self._left: dict[int, int] = {}
        self.awaited: list[Any] = []
        #: Members of which nothing is awaited.
        self.empty: list[Any] = []
        for member in results:
            parts = list(leaves([member]))
            if parts:
                self._left[id(member)] = self._left.get(id(member), 0) + len(parts)
            else:
                self._tell(member)
                self.empty.append(member)
            for leaf in parts:
                if id(leaf) not in self._members:
                    self.awaited.append(leaf)
                self._members.setdefault(id(leaf), []).append(member)

    def take(self, leaf: Any) -> list[Any]:
        """A task has ended; gives the members that have ended with it.

        Raises:
            BaseException: What the task raised.
        """
        document = leaf._cache
        if document is not None and self._on_message is not None:
            self._on_message(document)
        if document is not None and self._propagate:
            raise_if_failed(document)
        ended = []
        for member in self._members[id(leaf)]:
            self._left[id(member)] -= 1
            if self._left[id(member)] == 0:
                self._tell(member)
                ended.append(member)
        return ended

    def _tell(self, member: Any) -> None:
        if self._callback is not None:
            self._callback(member.id, value_of(member))
