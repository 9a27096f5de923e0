"""What `inspect`, `control` and `status` have in common: commands by name, and answers as people read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pprint import pformat
from textwrap import indent
from typing import Any

import click

from celeriac.bin.options import CommaList, Shared, command, friendly_errors, stop

#: Exit code when nobody answered (`EX_UNAVAILABLE`).
EXIT_UNAVAILABLE = 69


def remote_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all three have."""
    for option in (
        click.option("-j", "--json", "as_json", is_flag=True, help="Write one JSON document."),
        click.option("-d", "--destination", type=CommaList(), help="Node names, separated by commas."),
        click.option(
            "-t", "--timeout", type=float, default=1.0, show_default=True, help="Seconds to wait for replies."
        ),
    ):
        function = option(function)
    return function


def commands_of(type: str) -> dict[str, Any]:
    """Commands of a type that are shown, by name."""
    from celeriac.worker.control import Panel

    return {name: info for name, info in sorted(Panel.meta.items()) if info.type == type and info.visible}


def show_commands(type: str) -> None:
    """Lists what there is."""
    formatter = click.HelpFormatter()
    rows = [(f"{name} {info.signature or ''}".strip(), info.help) for name, info in commands_of(type).items()]
    with formatter.section(f"{type.capitalize()} Commands"):
        formatter.write_dl(rows)
    click.echo(formatter.getvalue(), nl=False)


def arguments_of(type: str, name: str, given: tuple[str, ...]) -> dict[str, Any]:
    """Arguments from the command line, by name.

    Raises:
        click.UsageError: There is no such command, or its arguments are others.
    """
    known = commands_of(type)
    if name not in known:
        raise click.UsageError(f"Command {name} not recognized. Available {type} commands: {', '.join(known)}")
    info, left = known[name], list(given)
    found: dict[str, Any] = {}
    for argument, convert in info.args or ():
        if not left:
            break
        text = left.pop(0)
        try:
            found[argument] = convert(text) if convert is not None else text
        except (TypeError, ValueError) as exc:
            raise click.UsageError(f"{argument} of {name!r}: {exc}") from exc
    if info.variadic:
        found[info.variadic] = left
    elif left:
        raise click.UsageError(f"Command {name!r} takes arguments: {info.signature or 'none'}")
    return found


def remote_command(type: str, help: str, ask: Callable[..., Any], *, counted: bool) -> click.Command:
    """The command `inspect` or `control`: options, the list of commands, and what becomes of the answers.

    Args:
        type: `inspect` or `control`.
        help: What `--help` says.
        ask: Sends the request: `ask(control, name, arguments, timeout, destination, callback)`, which gives the replies.
        counted: The number of nodes is told at the end.
    """

    @command(name=type, help=help)
    @click.argument("name", metavar="COMMAND", required=False)
    @click.argument("arguments", nargs=-1)
    @click.option("-l", "--list", "listed", is_flag=True, help="List the commands.")
    @remote_options
    def main(
        shared: Shared,
        /,
        name: str | None,
        arguments: tuple[str, ...],
        listed: bool,
        timeout: float,
        destination: list[str] | None,
        as_json: bool,
    ) -> None:
        # The app may have commands of its own.
        app = shared.load_app()
        if listed:
            return show_commands(type)
        if name is None:
            raise click.UsageError("Missing argument 'COMMAND'. --list shows what there is.")
        named = arguments_of(type, name, arguments)
        callback = None if as_json else teller(shared, show_reply=True)
        with friendly_errors():
            replies = ask(app.control, name, named, timeout, destination, callback)
            finish(shared, replies, as_json=as_json, counted=counted)
        return None

    return main


def teller(shared: Shared, *, show_reply: bool) -> Callable[[dict[str, Any]], None]:
    """Writes each reply as it comes."""

    def tell(replies: dict[str, Any]) -> None:
        node, reply = next(iter(replies.items()))
        good, text = _pretty(reply)
        status = click.style("OK", fg="green", bold=True) if good else click.style("ERROR", fg="red", bold=True)
        arrow = "" if shared.quiet else f"{click.style('->', fg='white', bold=True)} "
        click.echo(f"{arrow} {click.style(f'{node}: ', fg='cyan', bold=True)}{status}")
        if show_reply and text:
            click.echo(indent(text, "    ", lambda line: True))

    return tell


def _pretty(reply: Any) -> tuple[bool, str]:
    """Whether an answer is good, and how it is written."""
    if isinstance(reply, list):
        return True, "\n".join(f"* {item}" for item in reply) if reply else "- empty -"
    if isinstance(reply, dict):
        if "ok" in reply or "error" in reply:
            good = "ok" in reply
            return good, indent(_pretty(reply["ok" if good else "error"])[1], "    ", lambda line: True)
        return True, json.dumps(reply, sort_keys=True, indent=4)
    return True, reply if isinstance(reply, str) else pformat(reply)


def finish(shared: Shared, replies: Any, *, as_json: bool, counted: bool = True) -> None:
    """Ends a command: with the number of nodes, or with exit code 69 when nobody answered."""
    if not replies:
        stop("No nodes replied within time constraint", code=EXIT_UNAVAILABLE)
    if as_json:
        click.echo(json.dumps(replies))
    elif counted and not shared.quiet:
        click.echo(f"\n{len(replies)} node{'s' if len(replies) != 1 else ''} online.")
