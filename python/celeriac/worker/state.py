"""What Celery's workers keep as module globals. Here the engine has it, and tells by remote control."""

from __future__ import annotations

from typing import Any

from celeriac._core import __version__

__all__ = ["SOFTWARE_INFO"]

SOFTWARE_INFO = {"sw_ident": "py-celeriac", "sw_ver": __version__, "sw_sys": "Linux"}

_IN_THE_ENGINE = frozenset(
    {
        "active_requests",
        "all_total_count",
        "requests",
        "reserved_requests",
        "revoked",
        "scheduled_requests",
        "should_stop",
        "should_terminate",
        "successful_requests",
        "total_count",
    }
)


def __getattr__(name: str) -> Any:
    if name in _IN_THE_ENGINE:
        raise AttributeError(
            f"celery.worker.state.{name} is the engine's here: ask app.control.inspect() for active, reserved, scheduled "
            "or revoked tasks and for stats(); raise WorkerShutdown to stop a worker"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
