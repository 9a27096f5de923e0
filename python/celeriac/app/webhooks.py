"""The webhook of a task: what a user says of it, brought into one form.

A call's own travels in our header (`{"webhook": {...}}`); that of a task or an app is known to the worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.app import http_calls
from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.own import Call

__all__ = ["MEMBER", "as_options", "check", "secrets", "write"]

#: Its member of our header.
MEMBER = "webhook"
_ENDS = ("success", "failure")
_KNOWN = frozenset({"url", "headers", "secret", "on", "timeout"})


def write(call: Call, value: Any) -> None:
    """Writes the member of a call.

    Raises:
        TypeError, ValueError: It cannot be used; says what to do.
    """
    call.members[MEMBER] = as_options(value)


def check(whose: str, value: Any) -> None:
    """Refuses a webhook that is no call's, where it is said.

    Raises:
        ImproperlyConfigured: It cannot be used; says what to do.
    """
    if value is None:
        return
    try:
        as_options(value)
    except (TypeError, ValueError) as exc:
        raise ImproperlyConfigured(f"{whose}: {exc}") from exc


def as_options(value: Any) -> dict[str, Any] | bool:
    """A URL or a mapping in one form: `url`, and `headers`, `secret`, `on`, `timeout` where they were given.

    Args:
        value: A URL, a mapping, or False: no webhook, whatever the task and the app say.

    Raises:
        TypeError, ValueError: It cannot be used; says what to do.
    """
    if value is False:
        return False
    given: dict[str, Any] = {"url": value} if isinstance(value, str) else {}
    if isinstance(value, Mapping):
        given = {name: item for name, item in value.items() if item is not None}
    elif not given:
        raise TypeError(f"webhook is a URL or a mapping with a url, not {type(value).__name__}")
    if unknown := sorted(given.keys() - _KNOWN):
        raise ValueError(f"webhook has no option {unknown[0]!r}: it has {', '.join(sorted(_KNOWN))}")
    if "url" not in given:
        raise ValueError("webhook has no url")
    secret = given.get("secret")
    if secret is not None and (not isinstance(secret, str) or secret.startswith("whsec_")):
        raise ValueError(
            "webhook names its secret, and does not hold it: put it into the setting webhook_secrets of the workers, "
            "as {name: secret}, and give that name"
        )
    if "on" in given:
        given["on"] = _ends(given["on"])
    # What is wrong with them is said by the same rules as for a call.
    http_calls.arguments(given["url"], None, given.get("headers"), given.get("timeout"), None, "POST", False)
    return given


def _ends(value: Any) -> list[str]:
    ends = [value] if isinstance(value, str) else list(value)
    if not ends or any(end not in _ENDS for end in ends):
        raise ValueError(f"webhook is called on success, on failure, or on both: not {value!r}")
    return ends


def secrets(value: Any) -> dict[str, list[str]]:
    """The setting `webhook_secrets` as lists by name; the usual ones have the name "".

    Raises:
        ImproperlyConfigured: It is neither a text, a list of texts, nor a mapping of names to these. Shows no secret.
    """
    if not value:
        return {}
    if isinstance(value, Mapping):
        return {str(name): _texts(item) for name, item in value.items()}
    return {"": _texts(value)}


def _texts(value: Any) -> list[str]:
    items: list[Any] = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [None]
    if not items or any(not isinstance(item, str) or not item for item in items):
        raise ImproperlyConfigured(
            "webhook_secrets is a secret, a list of secrets, or a mapping of names to these; each is a text"
        )
    return items
