"""Which app and which task are current, as users import them."""

from __future__ import annotations

from celeriac._state import (
    active_apps,
    allow_join_result,
    app_or_default,
    connect_on_app_finalize,
    current_app,
    current_task,
    denied_join_result,
    get_current_app,
    get_current_task,
    get_current_worker_task,
    get_default_app,
    pop_current_task,
    push_current_task,
    set_current_app,
    set_default_app,
)

__all__ = [
    "active_apps",
    "allow_join_result",
    "app_or_default",
    "connect_on_app_finalize",
    "current_app",
    "current_task",
    "denied_join_result",
    "get_current_app",
    "get_current_task",
    "get_current_worker_task",
    "get_default_app",
    "pop_current_task",
    "push_current_task",
    "set_current_app",
    "set_default_app",
]
