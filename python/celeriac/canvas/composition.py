"""What a workflow comes to when it is sent: messages, chords to start, groups to keep, and a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.send import Message

__all__ = ["Composition"]


class Composition:
    """Gathers what one call of a signature sends, so that it goes out together.

    Passed as the `producer` of `Task.apply_async` and `Celery.send_task`: with one of these, they add their message
    to it instead of publishing it, whatever subclasses and libraries have put around them.
    """

    __slots__ = ("admitted", "app", "chords", "counted", "groups", "messages", "once", "result", "told", "trail")

    def __init__(self, app: Celery, once: bool = False) -> None:
        self.app = app
        #: A message is of a call that is sent only if it gets a key.
        self.admitted = False
        #: Its messages must not run twice (`at_most_once`).
        self.once = once
        #: In the order in which they are to be published.
        self.messages: list[Message] = []
        #: Group ids and numbers of parts; to be started before anything is published.
        self.chords: list[tuple[str, int]] = []
        #: Results of headers, bodies and numbers of parts: chords that a result backend written in Python counts.
        self.told: list[tuple[Any, Any, int]] = []
        #: Results of headers with groups among their members: whoever joins needs to know how they are nested.
        self.groups: list[Any] = []
        #: Results that are children of the task which sends this.
        self.trail: list[Any] = []
        #: What the call gives back.
        self.result: Any = None
        #: Whether the result backend counts the parts of chords; None: not asked yet.
        self.counted: bool | None = None

    def collect(self, message: Message, options: Mapping[str, Any]) -> Any:
        """Takes a message instead of a broker; gives its result."""
        if message.admission is not None:
            self.admitted = True
        result = self.app.AsyncResult(message.id, task_name=message.task)
        result.ignored = bool(message.ignores)
        self.messages.append(message)
        if options.get("add_to_parent", True):
            self.trail.append(result)
        return result

    def counts_chords(self) -> bool:
        """Whether the result backend counts the parts of chords itself.

        Raises:
            NotImplementedError: It cannot join chords at all.
        """
        if self.counted is None:
            self.counted = self.app.counts_chords()
        return self.counted
