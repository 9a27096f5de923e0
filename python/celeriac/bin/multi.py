"""`multi`: starts, stops and restarts several workers on this machine."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from celeriac.bin.options import EXIT_FAILURE, Shared, stop

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from celeriac.bin.nodes import CommandLine, Node

USAGE = """\
Start and stop several workers on this machine.

\b
  multi start    NAMES|COUNT [worker options]   start nodes
  multi stop     NAMES|COUNT [-SIGNAL]          stop them, and do not wait (TERM unless given)
  multi stopwait NAMES|COUNT [-SIGNAL]          stop them, and wait until they have ended
  multi restart  NAMES|COUNT [-SIGNAL] [worker options]
  multi kill     NAMES|COUNT                    end them at once: what they run is lost
  multi show     NAMES|COUNT [worker options]   the commands that would start them
  multi get NAME NAMES|COUNT [worker options]   the arguments of one node
  multi names    NAMES|COUNT                    their node names
  multi expand TEMPLATE NAMES|COUNT             a text for each node: %n, %h, %d

An option holds for all nodes, or for some: -c:1 3, -c:1-5 3, -Q:images,data queue, -l:4 DEBUG. Numbers are places in the
list of names. The value of a long option follows after "=": --pidfile=/run/%n.pid (default /var/run/celery/%n.pid),
--logfile=/log/%n%I.log (default /var/log/celery/%n%I.log).

More options: --prefix, --suffix, --range-prefix (of node names), --cmd, --append, --nosplash, --quiet, --verbose, --no-color.
"""

#: The commands, for completion.
NAMES = ("start", "stop", "stopwait", "restart", "kill", "show", "get", "names", "expand", "help")
#: How often it is looked whether a worker has ended.
LOOK_SECONDS = 0.05
#: How often a dot is shown while waiting.
DOT_SECONDS = 1.0


class RawCommand(click.Command):
    """Leaves all arguments as they are: `-c:1` is none that click could read."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing and (not args or args[0] in ("--help", "-h", "help")):
            click.echo(self.get_help(ctx))
            ctx.exit()
        ctx.params["arguments"] = list(args)
        return []

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        given = ctx.params.get("arguments")
        return [CompletionItem(name) for name in NAMES if name.startswith(incomplete) and not given]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "COMMAND NAMES|COUNT [OPTIONS]")


@click.command(name="multi", cls=RawCommand, help=USAGE, context_settings={"ignore_unknown_options": True})
@click.pass_context
def main(ctx: click.Context, /, arguments: list[str]) -> None:
    """Start and stop several workers on this machine."""
    from celeriac.bin.nodes import UsageError

    name, *arguments = arguments
    try:
        code = Multi(ctx.ensure_object(Shared)).call(name, arguments)
    except UsageError as exc:
        stop(str(exc), "see multi --help")
    raise SystemExit(code)


class Multi:
    """Carries out the commands."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._quiet = shared.quiet
        self._verbose = False

    def call(self, name: str, arguments: list[str]) -> int:
        """Runs one command; gives the exit code.

        Raises:
            UsageError: It cannot be understood.
        """
        from celeriac.bin.nodes import CommandLine

        commands: dict[str, Callable[..., int]] = {
            "start": self._start,
            "stop": self._stop,
            "stopwait": self._stopwait,
            "stop_verify": self._stopwait,
            "restart": self._restart,
            "kill": self._kill,
            "show": lambda nodes, line: _print(" ".join(node.command) for node in nodes),
            "names": lambda nodes, line: _print(node.name for node in nodes),
        }
        first: dict[str, Callable[..., int]] = {"get": self._get, "expand": self._expand}
        if name in first:
            if not arguments:
                stop(f"multi {name} needs an argument", "see multi --help")
            line = CommandLine.parse(arguments[1:])
            return first[name](arguments[0], self._nodes(line))
        if name not in commands:
            from difflib import get_close_matches

            near = get_close_matches(name, [*commands, *first], 1)
            stop(f"multi has no command {name!r}", f"did you mean {near[0]}?" if near else "see multi --help")
        line = CommandLine.parse(arguments)
        nodes = self._nodes(line)
        return commands[name](nodes, line)

    def _nodes(self, line: CommandLine) -> list[Node]:
        options = line.options
        for name in ("--nosplash", "--quiet", "-q", "--verbose", "--no-color", "-C"):
            if name in options:
                value = options.pop(name)
                self._quiet |= name in ("--quiet", "-q")
                self._verbose |= name == "--verbose"
                if value is not None:
                    # It takes no value: that was a node's name.
                    line.names.append(value)
        shared = self._shared
        before = {
            "-A": shared.app,
            "-b": shared.broker,
            "--result-backend": shared.result_backend,
            "--loader": shared.loader,
            "--config": shared.config,
            "--workdir": shared.workdir,
        }
        line.options = {**{name: value for name, value in before.items() if value is not None}, **options}
        return line.nodes()

    # -- commands

    def _start(self, nodes: list[Node], line: CommandLine) -> int:
        self._note("> Starting nodes...")
        return self._start_all(nodes)

    def _start_all(self, nodes: list[Node]) -> int:
        codes = [self._start_one(node) for node in nodes]
        return int(any(codes))

    def _start_one(self, node: Node) -> int:
        self._note(f"\t> {node.name}: ", newline=False)
        if self._verbose:
            self._note(" ".join(node.command))
        code = node.start()
        self._note("OK" if code == 0 else f"FAILED (exit code {code})")
        return code

    def _stop(self, nodes: list[Node], line: CommandLine) -> int:
        self._signal(nodes, line.signal)
        return 0

    def _stopwait(self, nodes: list[Node], line: CommandLine) -> int:
        self._wait(self._signal(nodes, line.signal))
        return 0

    def _restart(self, nodes: list[Node], line: CommandLine) -> int:
        self._wait(self._signal(nodes, line.signal))
        self._note("> Restarting nodes...")
        return self._start_all(nodes)

    def _kill(self, nodes: list[Node], line: CommandLine) -> int:
        from celeriac.platforms import Pidfile

        killed = self._signal(nodes, signal.SIGKILL)
        self._wait(killed)
        for node in killed:
            Pidfile(node.pidfile).remove_if_stale()
        return 0

    def _get(self, wanted: str, nodes: list[Node]) -> int:
        for node in nodes:
            if wanted in (node.name, node.name.partition("@")[0]):
                return _print([" ".join(node.argv)])
        return EXIT_FAILURE

    def _expand(self, template: str, nodes: list[Node]) -> int:
        return _print(node.expand(template) for node in nodes)

    # -- parts of them

    def _signal(self, nodes: list[Node], number: int) -> list[Node]:
        """Sends a signal to the nodes that run; gives these."""
        from celeriac.platforms import signal_name

        alive = []
        self._note("> Stopping nodes...")
        for node in nodes:
            if node.alive() and node.send(number):
                self._note(f"\t> {node.name}: {signal_name(number)} -> {node.pid}")
                alive.append(node)
            else:
                self._note(f"\t> {node.name}: DOWN")
        return alive

    def _wait(self, nodes: list[Node]) -> None:
        """Waits for their ends, however long their tasks take; Ctrl-C leaves."""
        left = list(nodes)
        if left:
            self._note(f"> Waiting for {len(left)} nodes -> {', '.join(str(node.pid) for node in left)}...")
        dot = time.monotonic() + DOT_SECONDS
        dotted = False
        while left:
            for node in [node for node in left if not node.alive()]:
                self._note(("\n" if dotted else "") + f"\t> {node.name}: OK")
                left.remove(node)
                dotted = False
            if left:
                time.sleep(LOOK_SECONDS)
                if time.monotonic() > dot:
                    self._note(".", newline=False)
                    dot, dotted = time.monotonic() + DOT_SECONDS, True

    def _note(self, text: str, *, newline: bool = True) -> None:
        if not self._quiet:
            click.echo(text, nl=newline)


def _print(lines: Any) -> int:
    for line in lines:
        click.echo(line)
    return 0
