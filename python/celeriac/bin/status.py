"""`status`: which workers are there."""

from __future__ import annotations

from typing import Any

from celeriac.bin.options import Shared, command, friendly_errors
from celeriac.bin.remote import finish, remote_options, teller


@command(name="status")
@remote_options
def main(shared: Shared, /, timeout: float, destination: list[str] | None, as_json: bool) -> None:
    """Show the workers that are online."""
    app = shared.load_app()
    callback: Any = None if as_json else teller(shared, show_reply=False)
    with friendly_errors():
        inspect = app.control.inspect(timeout=timeout, destination=destination, callback=callback)
        finish(shared, inspect.ping(), as_json=as_json)
