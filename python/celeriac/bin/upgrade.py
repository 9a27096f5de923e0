"""`upgrade settings`: renames the old upper-case settings in a file."""

from __future__ import annotations

import re
import shutil

import click

from celeriac.bin.options import stop


@click.group(name="upgrade", context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Bring files of older versions of Celery up to date."""


@main.command()
@click.argument("filename")
@click.option(
    "--django", is_flag=True, help="New names in upper case, with CELERY_ before them: for Django's settings."
)
@click.option("--compat", is_flag=True, help="The same.")
@click.option("--no-backup", is_flag=True, help="Do not keep the old file as FILENAME.orig.")
def settings(filename: str, django: bool, compat: bool, no_backup: bool) -> None:
    """Rename settings in FILENAME: CELERY_RESULT_BACKEND to result_backend, and so on."""
    try:
        with open(filename, encoding="utf-8", newline="") as file:
            before = file.read()
    except (OSError, UnicodeDecodeError) as exc:
        stop(f"{filename!r} cannot be read: {getattr(exc, 'strerror', None) or exc}")
    after, count = renamed(before, upper=django or compat)
    if not count:
        click.echo("Nothing has to be changed.")
        return
    try:
        if not no_backup:
            shutil.copy2(filename, f"{filename}.orig")
            click.echo(f"The old file is kept as {filename}.orig", err=True)
        with open(filename, "w", encoding="utf-8", newline="") as file:
            file.write(after)
    except OSError as exc:
        stop(f"{exc.filename!r} cannot be written: {exc.strerror}")
    click.echo(f"Renamed {count} settings in {filename}.")


def renamed(text: str, *, upper: bool) -> tuple[str, int]:
    """The text with new names, and how many were old. Whole words only: `BROKER_URL` is not part of `MY_BROKER_URL`.

    Args:
        text: Source of a settings module.
        upper: `CELERY_RESULT_BACKEND` and not `result_backend`, for settings that are read with the namespace CELERY.
    """
    from celeriac.app.defaults import OLD_NAMES

    new = {old: f"CELERY_{name.upper()}" if upper else name for old, name in OLD_NAMES.items()}
    new = {old: name for old, name in new.items() if old != name}
    pattern = re.compile(r"(?<![\w.])(" + "|".join(sorted(map(re.escape, new), key=len, reverse=True)) + r")(?!\w)")
    return pattern.subn(lambda match: new[match.group(1)], text)
