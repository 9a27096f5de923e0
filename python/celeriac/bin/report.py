"""`report`: what a bug report should say of an installation."""

from __future__ import annotations

import platform
import sys

import click

from celeriac.bin.options import Shared, command, friendly_errors


@command(name="report")
def main(shared: Shared, /) -> None:
    """Show versions, and the settings that differ from their defaults. Secrets are masked."""
    from celeriac import __version__
    from celeriac.utils.urls import without_password

    app = shared.load_app()
    with friendly_errors():
        settings = without_password(app.conf.humanize(with_defaults=False, censored=True))
        click.echo(f"software -> celeriac:{__version__} py:{platform.python_version()} ({sys.implementation.name})")
        click.echo(f"platform -> system:{platform.system()} arch:{platform.machine()} libc:{platform.libc_ver()[0]}")
        click.echo(f"broker   -> {without_password(app.broker_url_effective)}")
        click.echo(f"results  -> {without_password(app.result_backend_effective or 'disabled')}")
        click.echo(settings)
