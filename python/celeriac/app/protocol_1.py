"""Celery's message protocol 1 (`task_protocol = 1`): no headers, the body says everything, chains are nested links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["body"]


def body(headers: Mapping[str, Any], args: Any, kwargs: Any, embed: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a message in protocol 1, from what protocol 2 would send."""
    return {
        "task": headers["task"],
        "id": headers["id"],
        "args": args,
        "kwargs": kwargs,
        "group": headers["group"],
        "group_index": headers["group_index"],
        "retries": headers["retries"],
        "eta": headers["eta"],
        "expires": headers["expires"],
        "utc": True,
        "callbacks": _callbacks(embed["callbacks"], embed["chain"]),
        "errbacks": embed["errbacks"],
        "timelimit": headers["timelimit"],
        "taskset": headers["group"],
        "chord": embed["chord"],
    }


def _callbacks(callbacks: list[Any] | None, chain: Sequence[Mapping[str, Any]] | None) -> list[Any] | None:
    """What follows; the steps of a chain (the last one first) become each other's links."""
    if not chain:
        return callbacks
    following: dict[str, Any] | None = None
    for step in chain:
        options = dict(step["options"])
        if following is not None:
            options["link"] = [*(options.get("link") or ()), following]
        following = {**step, "options": options}
    return [*(callbacks or ()), following]
