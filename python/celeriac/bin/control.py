"""`control`: tells workers to change something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac.bin.remote import remote_command

if TYPE_CHECKING:
    from celeriac.app.control import Control


def _tell(control: Control, name: str, arguments: Any, timeout: float, destination: Any, callback: Any) -> Any:
    if name in ("pause_queue", "resume_queue") and arguments.get("queue"):
        # These are kept in the broker as well.
        kept = getattr(control, name)
        return kept(arguments["queue"], timeout=timeout, destination=destination, callback=callback, reply=True)
    return control.broadcast(
        name, timeout=timeout, destination=destination, callback=callback, reply=True, arguments=arguments
    )


main = remote_command(
    "control",
    "Tell workers to change something: COMMAND is rate_limit, pool_grow, shutdown, ... (--list).",
    _tell,
    counted=False,
)
