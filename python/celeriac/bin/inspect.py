"""`inspect`: asks workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac.bin.remote import remote_command

if TYPE_CHECKING:
    from celeriac.app.control import Control


def _ask(control: Control, name: str, arguments: Any, timeout: float, destination: Any, callback: Any) -> Any:
    return control.inspect(timeout=timeout, destination=destination, callback=callback)._request(name, **arguments)


main = remote_command(
    "inspect", "Ask workers something: COMMAND is ping, active, stats, ... (--list).", _ask, counted=True
)
