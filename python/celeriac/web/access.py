"""Who may do what: nobody anything, unless the application says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celeriac.exceptions import ImproperlyConfigured

__all__ = ["ACTIONS", "allow_all", "check_auth", "is_forged"]

#: What `auth` is asked about.
ACTIONS = ("status", "events", "cancel", "terminate", "dead_letters", "retry_dead_letters", "drop_dead_letters")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def allow_all(*_: Any) -> bool:
    """Everybody may do everything: for `auth`, where something else keeps strangers out."""
    return True


def check_auth(auth: Any, where: str) -> Callable[..., Any]:
    """Refuses to go on without an `auth`.

    Raises:
        ImproperlyConfigured: There is none, or it cannot be called.
    """
    if not callable(auth):
        raise ImproperlyConfigured(
            f"{where} needs auth=, a callable (action, task_id) -> bool that says who may see and cancel which task; "
            "auth=celeriac.web.allow_all lets everybody do everything"
        )
    checked: Callable[..., Any] = auth
    return checked


def is_forged(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser says that another site makes it send this, with the user's cookies: never what was meant."""
    return method not in _SAFE_METHODS and headers.get("sec-fetch-site") == "cross-site"
