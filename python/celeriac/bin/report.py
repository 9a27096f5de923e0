"""`report`: what a bug report should say of an installation."""

from __future__ import annotations

import json
import platform
import sys

import click

from celeriac.bin.options import Shared, command, friendly_errors


@command(name="report")
@click.option("-j", "--json", "as_json", is_flag=True, help="One JSON object.")
def main(shared: Shared, /, as_json: bool) -> None:
    """Show versions, and the settings that differ from their defaults. Secrets are masked."""
    from celeriac import __version__
    from celeriac.app import stores
    from celeriac.utils.urls import without_password

    app = shared.load_app()
    with friendly_errors():
        broker = without_password(app.broker_url_effective)
        results = stores.shown_backend(app).removesuffix("://")
        if as_json:
            found = {
                "celeriac": __version__,
                "python": platform.python_version(),
                "implementation": sys.implementation.name,
                "system": platform.system(),
                "arch": platform.machine(),
                "libc": platform.libc_ver()[0],
                "broker": broker,
                "results": results,
                "settings": app.conf.table(with_defaults=False, censored=True),
            }
            click.echo(without_password(json.dumps(found, indent=2, default=repr)))
            return
        settings = without_password(app.conf.humanize(with_defaults=False, censored=True))
        click.echo(f"software -> celeriac:{__version__} py:{platform.python_version()} ({sys.implementation.name})")
        click.echo(f"platform -> system:{platform.system()} arch:{platform.machine()} libc:{platform.libc_ver()[0]}")
        click.echo(f"broker   -> {broker}")
        click.echo(f"results  -> {results}")
        click.echo(settings)
