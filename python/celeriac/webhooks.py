"""For who receives webhooks: is it one of ours, and new?

By the rules of Standard Webhooks (https://www.standardwebhooks.com): the headers `webhook-id`, `webhook-timestamp` and
`webhook-signature`, HMAC-SHA256 over id, timestamp and body. Needs nothing of the rest of this package, nor an app.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from celeriac.exceptions import WebhookVerificationError

__all__ = ["WebhookVerificationError", "sign", "verify"]

_PREFIX = "whsec_"
_SCHEME = "v1"


def verify(
    body: bytes | str,
    headers: Mapping[str, Any] | Iterable[tuple[Any, Any]],
    secrets: str | Iterable[str],
    tolerance: float = 300,
    *,
    now: float | None = None,
) -> Any:
    """Verifies a webhook, and gives its content.

    Args:
        body: The body of the request, byte for byte as it came.
        headers: Its headers: a mapping of any framework (Flask, Starlette, Django), or pairs.
        secrets: The secret, or several while they are rotated; one that fits is enough.
        tolerance: Seconds that sender's and receiver's clocks, and the way, may lie apart.
        now: The time, for tests; seconds since the epoch.

    Returns:
        The body's JSON. Who has seen its `webhook-id` before has seen it before: calls are repeated when an answer is lost.

    Raises:
        WebhookVerificationError: A header is missing, it is too old or too new, or no signature fits.
        ValueError: There is no secret to verify with.
    """
    keys = [_key(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    if not keys:
        raise ValueError("there is no secret to verify a webhook with")
    found = _wanted(headers)
    try:
        webhook_id, timestamp, signatures = (found[name] for name in ("id", "timestamp", "signature"))
    except KeyError as exc:
        raise WebhookVerificationError(f"the header webhook-{exc.args[0]} is missing") from None
    data = body.encode() if isinstance(body, str) else bytes(body)
    _check_time(timestamp, tolerance, time.time() if now is None else now)
    content = f"{webhook_id}.{timestamp}.".encode() + data
    expected = [hmac.digest(key, content, hashlib.sha256) for key in keys]
    fits = False
    for given in _signatures(signatures):
        for one in expected:
            # All are compared, so that time tells nothing.
            fits |= hmac.compare_digest(given, one)
    if not fits:
        raise WebhookVerificationError("no signature fits: it was not signed with one of these secrets, or was changed")
    try:
        return json.loads(data)
    except ValueError as exc:
        raise WebhookVerificationError("the body is signed, and is not JSON") from exc


def sign(body: bytes | str, webhook_id: str, timestamp: int, secret: str) -> str:
    """The value of `webhook-signature`: for tests of a receiver."""
    data = body.encode() if isinstance(body, str) else bytes(body)
    digest = hmac.digest(_key(secret), f"{webhook_id}.{timestamp}.".encode() + data, hashlib.sha256)
    return f"{_SCHEME},{base64.b64encode(digest).decode()}"


def _key(secret: str) -> bytes:
    """A secret that is no base64 after its prefix, or has none, is taken as it is."""
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret[len(_PREFIX) :], validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def _wanted(headers: Mapping[str, Any] | Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """Our three headers, whatever the case of their names, and whether they are bytes."""
    items: Iterable[tuple[Any, Any]] = headers.items() if hasattr(headers, "items") else headers
    found = {}
    for name, value in items:
        # Django's `request.META` calls them HTTP_WEBHOOK_ID.
        lower = _text(name).lower().replace("_", "-").removeprefix("http-")
        if lower.startswith("webhook-"):
            found[lower.removeprefix("webhook-")] = _text(value)
    return found


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _check_time(timestamp: str, tolerance: float, now: float) -> None:
    try:
        sent = int(timestamp)
    except ValueError:
        raise WebhookVerificationError("the header webhook-timestamp is not a number of seconds") from None
    if sent < now - tolerance:
        raise WebhookVerificationError(f"it was sent more than {tolerance} s ago")
    if sent > now + tolerance:
        raise WebhookVerificationError(f"it was sent more than {tolerance} s in the future")


def _signatures(header: str) -> list[bytes]:
    found = []
    for part in header.split():
        scheme, _, text = part.partition(",")
        if scheme == _SCHEME:
            try:
                found.append(base64.b64decode(text, validate=True))
            except binascii.Error:
                continue
    return found
