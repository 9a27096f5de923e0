"""`evdump`: prints events as they come."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

from celeriac.app.current import app_or_default
from celeriac.exceptions import OperationalError
from celeriac.utils.lru import LRUCache

__all__ = ["Dumper", "evdump"]

_WORDS = {"worker-offline": "shutdown", "worker-online": "started", "worker-heartbeat": "heartbeat"}
#: Seconds before the broker is tried again.
_REST = 2.0


def humanize_type(type: str) -> str:
    """A type in words."""
    return _WORDS.get(type.lower(), type.lower().replace("-", " "))


class Dumper:
    """Prints one line for each event.

    Args:
        out: Where to.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out if out is not None else sys.stdout
        #: What later events of a task do not say of it again.
        self._tasks: LRUCache[str, str] = LRUCache(4096)

    def say(self, msg: str) -> None:
        """Prints a line, at once."""
        print(msg, file=self.out, flush=True)

    def on_event(self, ev: dict[str, Any]) -> None:
        """Prints an event."""
        fields = dict(ev)
        moment = datetime.fromtimestamp(fields.pop("timestamp"), UTC)
        kind, hostname = fields.pop("type").lower(), fields.pop("hostname")
        subject = ""
        if kind.startswith("task-"):
            task_id = fields.pop("uuid")
            if kind in ("task-received", "task-sent"):
                name, args, kwargs = fields.pop("name"), fields.pop("args"), fields.pop("kwargs")
                self._tasks[task_id] = f"{name}({task_id}) args={args} kwargs={kwargs}"
            subject = self._tasks.data.get(task_id) or f"({task_id})"
        said = ", ".join(f"{name}={fields[name]}" for name in sorted(fields))
        words = [text for text in (subject, said) if text]
        head = f"{hostname} [{moment}] {humanize_type(kind)}"
        self.say(f"{head}: {' '.join(words)}" if words else head)


def evdump(app: Any = None, out: TextIO | None = None) -> None:
    """Prints all events until it is interrupted; connects anew as often as it takes.

    Args:
        app: Whose broker.
        out: Where to print; standard output unless given.
    """
    app = app_or_default(app)
    dumper = Dumper(out)
    dumper.say("-> evdump: starting capture...")
    receiver = app.events.Receiver(app.connection_for_read(), handlers={"*": dumper.on_event})
    while True:
        try:
            receiver.capture()
        except OperationalError as exc:
            dumper.say(f"-> Cannot connect: {exc}. Trying again in {_REST:.0f} seconds")
            time.sleep(_REST)
        except (KeyboardInterrupt, SystemExit):
            return
