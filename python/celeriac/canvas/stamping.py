"""Stamps: headers that mark every message of a workflow, given at once or by a visitor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celeriac.canvas.group import group
from celeriac.canvas.rebuild import maybe_signature
from celeriac.canvas.workflow import as_list

if TYPE_CHECKING:
    from celeriac.canvas.chain import chain
    from celeriac.canvas.chord import chord
    from celeriac.canvas.signature import Signature

__all__ = ["StampingVisitor", "stamp_chain", "stamp_chord", "stamp_group", "stamp_links", "stamp_signature"]

_NAMES = "stamped_headers"


class StampingVisitor(ABC):
    """Says what to stamp, for each part of a workflow that `stamp` comes to.

    Methods get the stamps so far as keyword arguments and give more of them. All keys of what they give are stamps,
    unless `stamped_headers` names those that are; the others become options of the message.
    """

    @abstractmethod
    def on_signature(self, sig: Signature[Any], **headers: Any) -> dict[str, Any]:
        """A task's signature."""

    def on_group_start(self, group: group[Any], **headers: Any) -> dict[str, Any]:
        """A group, before its members."""
        return {}

    def on_group_end(self, group: group[Any], **headers: Any) -> None:  # noqa: B027 -- may be left out
        """A group, after its members."""

    def on_chain_start(self, chain: chain[Any], **headers: Any) -> dict[str, Any]:
        """A chain, before its steps."""
        return {}

    def on_chain_end(self, chain: chain[Any], **headers: Any) -> None:  # noqa: B027 -- may be left out
        """A chain, after its steps."""

    def on_chord_header_start(self, sig: chord[Any], **header: Any) -> dict[str, Any]:
        """A chord, before the members of its header: the same as for a group of them, unless overridden."""
        if not isinstance(sig.tasks, group):
            sig.tasks = group(sig.tasks, app=sig._app)
        return self.on_group_start(sig.tasks, **header)

    def on_chord_header_end(self, sig: chord[Any], **header: Any) -> None:
        """A chord, after the members of its header."""
        self.on_group_end(sig.tasks, **header)

    def on_chord_body(self, sig: chord[Any], **header: Any) -> dict[str, Any]:
        """A chord, before its body."""
        return {}

    def on_callback(self, callback: Signature[Any], **header: Any) -> dict[str, Any]:
        """A link."""
        return {}

    def on_errback(self, errback: Signature[Any], **header: Any) -> dict[str, Any]:
        """An error link."""
        return {}


def stamp_signature(
    sig: Signature[Any], visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
) -> Signature[Any]:
    """Stamps a task's signature and its links."""
    stamp_links(sig, visitor, append, headers)
    said = None if visitor is None else visitor.on_signature(sig, **headers) or {}
    return sig.set(**_stamps(sig, said, append, headers))


def stamp_chain(sig: chain[Any], visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]) -> None:
    """Stamps a chain's links and steps."""
    said = None if visitor is None else visitor.on_chain_start(sig, **headers) or {}
    stamps = _stamps(sig, said, append, headers)
    stamp_links(sig, visitor, append, stamps)
    for step in sig.tasks:
        step.stamp(visitor, append, **stamps)
    if visitor is not None:
        visitor.on_chain_end(sig, **stamps)


def stamp_group(sig: group[Any], visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]) -> None:
    """Stamps a group's links and members."""
    said = None if visitor is None else visitor.on_group_start(sig, **headers) or {}
    stamps = _stamps(sig, said, append, headers)
    stamp_links(sig, visitor, append, stamps)
    for member in sig.tasks:
        member.stamp(visitor, append, **stamps)
    if visitor is not None:
        visitor.on_group_end(sig, **stamps)


def stamp_chord(sig: chord[Any], visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]) -> None:
    """Stamps a chord's links, header and body."""
    said = None if visitor is None else visitor.on_chord_header_start(sig, **headers) or {}
    stamps = _stamps(sig, said, append, headers)
    stamp_links(sig, visitor, append, stamps)
    for member in sig.tasks.tasks if isinstance(sig.tasks, group) else sig.tasks:
        member.stamp(visitor, append, **stamps)
    if visitor is None:
        # Celery's rule: without a visitor the body is not stamped.
        return
    visitor.on_chord_header_end(sig, **stamps)
    if sig.body is not None:
        said = visitor.on_chord_body(sig, **stamps) or {}
        sig.body.stamp(visitor, append, **_stamps(sig, said, append, stamps))


def stamp_links(sig: Signature[Any], visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]) -> None:
    """Stamps what is linked to a signature."""
    for option in ("link", "link_error"):
        links = as_list(sig["options"].get(option))
        if not links:
            continue
        # Dicts become signatures that stay where they were found: a stamp on a copy would be lost.
        sig["options"][option] = links = [maybe_signature(link, app=sig._app) for link in links]
        stamps = dict(headers)
        for link in links:
            said = None
            if visitor is not None:
                visit = visitor.on_callback if option == "link" else visitor.on_errback
                said = visit(link, **stamps) or {}
            stamps = _merged(said, append, stamps)
            link.stamp(visitor, append, **stamps)


def _stamps(
    sig: Signature[Any], said: Mapping[str, Any] | None, append: bool, headers: Mapping[str, Any]
) -> dict[str, Any]:
    """Stamps so far, those that a visitor gives, and those that the signature has, in this order."""
    stamps = _merged(said, append, headers)
    names = dict.fromkeys([*stamps[_NAMES], *(sig["options"].get(_NAMES) or ())])
    stamps[_NAMES] = list(names)
    own = {key: value for key, value in sig["options"].items() if key in names}
    _merge(stamps, own, append)
    return stamps


def _merged(said: Mapping[str, Any] | None, append: bool, headers: Mapping[str, Any]) -> dict[str, Any]:
    """Stamps so far and those that a visitor gives."""
    stamps = dict(headers)
    stamps[_NAMES] = list(stamps.get(_NAMES, stamps))
    if said is not None:
        _merge(stamps, {_NAMES: list(said), **said}, append)
        stamps[_NAMES] = list(dict.fromkeys(stamps[_NAMES]))
    return stamps


def _merge(into: dict[str, Any], more: Mapping[str, Any], append: bool) -> None:
    """Adds what is missing. Of two values the first stays; lists are joined, and with `append` all else as well."""
    for key, value in more.items():
        if key not in into:
            into[key] = value
            continue
        known = into[key]
        if isinstance(known, dict):
            if value:
                into[key] = known = dict(known)
                _merge(known, value, append)
            continue
        if append and isinstance(known, (int, float, str)):
            known = [known]
        if isinstance(known, list) and isinstance(value, list):
            into[key] = [*known, *value]
        elif append:
            into[key] = [*(known or ()), value]
