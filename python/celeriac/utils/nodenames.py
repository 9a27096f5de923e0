"""Node names: `name@host`, and the format letters in them."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celeriac.entities import Queue

__all__ = ["anon_nodename", "default_nodename", "gethostname", "host_format", "node_format", "nodename", "nodesplit"]

NODENAME_DEFAULT = "celery"


@lru_cache(maxsize=1)
def gethostname() -> str:
    """This machine's name."""
    if hasattr(os, "uname"):
        # The same as socket.gethostname(), without the cost of importing sockets into every client.
        return os.uname().nodename
    import socket

    return socket.gethostname()


def nodename(name: str, hostname: str) -> str:
    """Joins a node name."""
    return f"{name}@{hostname}"


def nodesplit(name: str) -> tuple[str | None, str]:
    """Splits a node name; without `@` it is a host alone."""
    left, at, right = name.partition("@")
    return (left, right) if at else (None, left)


def anon_nodename(hostname: str | None = None, prefix: str = "gen") -> str:
    """The name under which a client sends."""
    return nodename(f"{prefix}{os.getpid()}", hostname or gethostname())


def default_nodename(hostname: str | None) -> str:
    """Completes a node name: `w1` gives `celery@w1`."""
    name, host = nodesplit(hostname or "")
    return nodename(name or NODENAME_DEFAULT, host or gethostname())


def node_format(text: str, name: str, **extra: str) -> str:
    """Replaces the letters for a node's files: %n, %h, %d, %i, %I, %p."""
    node, host = nodesplit(name)
    return host_format(text, host, node, p=name, **extra)


def host_format(text: str, host: str | None = None, name: str | None = None, **extra: str) -> str:
    """Replaces the letters: %h host, %n first part of it, %d domain, %i process index, %I the same with a dash."""
    host = host or gethostname()
    short, _, domain = host.partition(".")
    values = {"h": host, "n": name or short, "d": domain, "i": "0", "I": "", "%": "%", **extra}
    pieces = text.split("%")
    formatted = [pieces[0]]
    index = 1
    while index < len(pieces):
        piece = pieces[index]
        if piece == "" and index + 1 < len(pieces):
            index += 1
            formatted.append("%" + pieces[index])
        elif piece[:1] in values:
            formatted.append(values[piece[0]] + piece[1:])
        else:
            formatted.append("%" + piece)
        index += 1
    return "".join(formatted)


def worker_direct(hostname: Any) -> Queue:
    """The queue of one worker alone (`worker_direct`); a queue is given back as it is."""
    from celeriac.entities import Exchange, Queue

    if not isinstance(hostname, str):
        return hostname  # type: ignore[no-any-return]
    return Queue(f"{hostname}.dq2", Exchange("C.dq2"), hostname)
