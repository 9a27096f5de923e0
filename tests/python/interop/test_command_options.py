"""Every option and command of Celery's command line that is claimed is there, and multi understands what Celery's does."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import click
import pytest

from celeriac.bin import COMMANDS, celeriac
from celeriac.bin.nodes import CommandLine

from .battery import PYTHONS

#: Prints {path of a command: names of its options}, of Celery's whole command line.
DUMP = """
import json, click
from celery.bin.celery import celery
found = {}
def walk(command, path):
    found[path] = sorted({name for param in command.params if isinstance(param, click.Option)
                          for name in (*param.opts, *param.secondary_opts)})
    for name, one in getattr(command, "commands", {}).items():
        walk(one, f"{path} {name}".strip())
walk(celery, "")
print(json.dumps(found))
"""

#: Prints, for each command line, the node names, pid files and options that Celery's multi makes of it.
MULTI = """
import json, sys
from celery.apps import multi
multi.Node._setdefaultopt = lambda self, d, alt, value: d.setdefault(alt[0], value) if not any(o in d for o in alt) else None
rows = []
for arguments in json.load(sys.stdin):
    parser = multi.NamespacedOptionParser(arguments)
    parser.parse()
    nodes = list(multi.MultiParser(cmd="-m celery worker --detach").parse(parser))
    rows.append([[n.name, n.pidfile, n.expander("%n %d %h %p"), dict(n.options)] for n in nodes])
print(json.dumps(rows))
"""

COMMAND_LINES = [
    ["3"],
    ["3", "-c", "2"],
    ["3", "-c:1", "2", "-c:2-3", "5", "--hostname=far.example"],
    ["10", "-Q:1-3", "images,video", "-Q:4,5", "data", "-Q", "default", "-L:4,5", "DEBUG"],
    ["a", "b", "c", "-c:1", "3", "-c:b", "4", "-c", "1"],
    ["a", "b", "c", "-c:1,3", "7"],
    ["a", "b@other", "-l", "INFO", "--pidfile=/tmp/%n.pid", "--logfile=/tmp/%n%I.log"],
    ["a@host.example.org", "-n", "ignored.example"],
    ["2", "--range-prefix=img", "--suffix=box"],
    ["x", "y", "--prefix=w-", "--hostname=h1"],
    ["foo-bar", "-c:foo-bar", "2"],
    ["1", "--autoscale:1=10,2", "-E"],
]


def celery(code: str, given: Any = None) -> Any:
    done = subprocess.run(
        [PYTHONS["celery"], "-c", code],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def theirs() -> dict[str, list[str]]:
    found: dict[str, list[str]] = celery(DUMP)
    assert len(found) > 30
    return found


def ours() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}

    def walk(command: click.Command, path: str) -> None:
        found[path] = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        for name, one in getattr(command, "commands", {}).items():
            walk(one, f"{path} {name}".strip())

    walk(celeriac, "")
    for name in COMMANDS:
        command = celeriac.get_command(click.Context(celeriac), name)
        assert command is not None
        walk(command, name)
    return found


def test_every_option_of_celerys_commands_is_there(theirs: dict[str, list[str]]) -> None:
    found = ours()
    # `list bindings` is an argument here.
    claimed = {path: options for path, options in theirs.items() if path.split(" ")[0] in {"", *COMMANDS} - {"list"}}

    missing = {
        path: sorted(set(options) - found.get(path, {"no such command"}))
        for path, options in claimed.items()
        if path not in found or set(options) - found[path]
    }

    assert missing == {}
    assert {"worker", "multi", "migrate", "graph bootsteps", "amqp basic.get", "logtool traces"} <= set(claimed)
    assert sum(map(len, claimed.values())) > 70


def test_multi_makes_the_same_nodes_as_celerys(theirs: dict[str, list[str]]) -> None:
    expected = celery(MULTI, COMMAND_LINES)

    for arguments, rows in zip(COMMAND_LINES, expected, strict=True):
        nodes = CommandLine.parse(arguments).nodes()
        made = [[node.name, node.pidfile, node.expand("%n %d %h %p"), _comparable(node.options)] for node in nodes]
        assert made == [[name, pidfile, text, _comparable(options)] for name, pidfile, text, options in rows], arguments


def _comparable(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value or None for name, value in options.items() if name != "--executable"}
