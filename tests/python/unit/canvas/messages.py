"""Workflows sent to nobody: what would be published, in a form that does not depend on made-up ids."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
#: Of the process and the moment.
UNSTABLE = {"origin", "eta", "expires"}


class Outbox:
    """Stands in for the engine's client; keeps what is published, started and saved."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.chords: list[tuple[str, int]] = []
        self.saved: list[Any] = []

    def publish(self, batch, *how):
        self.sent.extend(batch)

    def start_chord(self, app, group_id, size):
        self.chords.append((group_id, size))

    def guard_chords(self, ids, publications):
        pass

    def save(self, group):
        self.saved.append(group.as_tuple())

    def messages(self) -> list[dict[str, Any]]:
        return [
            {
                "headers": dict(one.headers),
                "body": json.loads(one.body),
                "correlation_id": one.properties["correlation_id"],
                "reply_to": one.properties["reply_to"],
                "place": [one.exchange, one.routing_key],
            }
            for one in self.sent
        ]


def recorded_messages(recorded: Any) -> list[dict[str, Any]]:
    """The messages of a capture from Redis, the first one sent first."""
    found = []
    for message in reversed(recorded["messages"]):
        decoded = message["decoded"]
        properties = decoded["properties"]
        info = properties["delivery_info"]
        found.append(
            {
                "headers": decoded["headers"],
                "body": json.loads(base64.b64decode(decoded["body"])),
                "correlation_id": properties["correlation_id"],
                "reply_to": properties["reply_to"],
                "place": [info["exchange"], info["routing_key"]],
            }
        )
    return found


def neutral(value: Any, names: dict[str, str] | None = None) -> Any:
    """The same with ids numbered as they are met, and without what depends on process and moment."""
    names = {} if names is None else names
    if isinstance(value, dict):
        return {key: neutral(value[key], names) for key in sorted(value) if key not in UNSTABLE}
    if isinstance(value, (list, tuple)):
        return [neutral(item, names) for item in value]
    if isinstance(value, str):
        return UUID.sub(lambda match: names.setdefault(match[0], f"<{len(names)}>"), value)
    return value
