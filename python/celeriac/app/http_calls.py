"""What an HTTP task's message says, checked where it is sent. The engine reads it in `src/worker/http/call.rs`."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["arguments", "check_url", "shown"]

#: RFC 9110: names of methods and headers.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers that belong to the connection.
_OURS = frozenset({"connection", "content-length", "host", "transfer-encoding", "upgrade"})


def arguments(
    url: str,
    payload: Any,
    headers: Mapping[str, str] | None,
    timeout: float | None,
    retries: int | None,
    method: str,
    sign: bool | str | Mapping[str, Any],
) -> dict[str, Any]:
    """The keyword arguments of the message. What is not said is left to the worker's settings.

    Raises:
        TypeError, ValueError: Something cannot be sent; says what.
    """
    check_url(url)
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"{method!r} is not a method of HTTP")
    found: dict[str, Any] = {"url": url, "method": method.upper()}
    if isinstance(payload, (bytes, bytearray, memoryview)):
        found["content"] = b64encode(payload).decode()
    elif payload is not None:
        found["payload"] = payload
    if headers:
        found["headers"] = _headers(headers)
    if timeout is not None:
        if not timeout > 0:
            raise ValueError(f"timeout is in seconds, and more than 0, not {timeout!r}")
        found["timeout"] = float(timeout)
    if retries is not None:
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ValueError(f"retries is a number from 0, not {retries!r}")
        found["retries"] = retries
    if sign:
        found["sign"] = dict(sign) if isinstance(sign, Mapping) else {"key": None if sign is True else sign}
    return found


def check_url(url: Any) -> None:
    """Refuses what no worker would call. The error shows no more of it than its scheme and host.

    Raises:
        TypeError: It is not a text.
        ValueError: It is not an HTTP URL, or holds a user name or a password.
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL is a text, not {type(url).__name__}")
    parts = urlsplit(url)
    if parts.scheme.lower() not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"a URL that can be called begins with http:// or https:// and a host, not {url[:16]!r}")
    if "@" in parts.netloc:
        raise ValueError(
            f"the URL of {parts.hostname} holds a user name or a password: send an Authorization header instead"
        )


def shown(url: str, method: str) -> str:
    """What monitors and logs are shown of a call: its host. Paths and queries may be secrets, as headers and bodies."""
    parts = urlsplit(url)
    rest = "/..." if parts.path not in {"", "/"} or parts.query else "/"
    return repr({"url": f"{parts.scheme}://{parts.netloc}{rest}", "method": method.upper()})


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header")
        if name.lower() in _OURS:
            raise ValueError(f"the header {name!r} belongs to the connection, and cannot be set")
        if not isinstance(value, str):
            raise TypeError(f"the value of header {name!r} is a text, not {type(value).__name__}")
        if any(char < " " or char > "~" for char in value):
            raise ValueError(f"the value of header {name!r} has characters that a header cannot have")
    return dict(headers)
