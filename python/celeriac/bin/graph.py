"""`graph`: pictures in the DOT language, for Graphviz (`... | dot -Tsvg > picture.svg`)."""

from __future__ import annotations

from typing import Any

import click

from celeriac.bin.draw import result, workflow
from celeriac.bin.options import EXIT_FAILURE, Shared, command, friendly_errors, stop

#: Parts of a worker, and what each starts or speaks to. The columns: process, part, label, arrows.
_PARTS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("supervisor", "app", "app: settings, tasks, signals", ("fork_server", "engine")),
    ("supervisor", "engine", "engine (Rust)", ("consumer", "pool", "control", "leases")),
    ("supervisor", "consumer", "consumer: claims, credit", ("broker", "strategy")),
    ("supervisor", "strategy", "strategy: run, wait, throttle, drop", ("pool", "broker")),
    ("supervisor", "pool", "pool: slots, time limits", ("child", "fork_server", "commit")),
    ("supervisor", "commit", "commit: result, follow-ups, acknowledgement", ("broker", "backend")),
    ("supervisor", "leases", "leases and heartbeats", ("broker",)),
    ("supervisor", "control", "remote control", ("broker",)),
    ("fork_server_process", "fork_server", "fork server: app imported", ("child",)),
    ("child_process", "child", "child: runs tasks", ()),
)
_CLUSTERS = {"supervisor": "supervisor", "fork_server_process": "fork server", "child_process": "children"}
#: What each of Celery's two blueprints names of it.
_BLUEPRINTS = {
    "worker": {"app", "engine", "pool", "fork_server", "child"},
    "consumer": {"consumer", "strategy", "commit", "leases", "control"},
}
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@click.group(name="graph", context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Draw workers and their parts, and workflows: in the DOT language, workflows also as SVG."""


@main.command()
@click.argument("parts", nargs=-1, type=click.Choice(["worker", "consumer"]))
def bootsteps(parts: tuple[str, ...]) -> None:
    """Draw what a worker is made of, which is the same for every app: PARTS are worker, consumer, or both."""
    wanted = set().union(*(_BLUEPRINTS[part] for part in parts or _BLUEPRINTS))
    lines = ["digraph worker {", "    rankdir=LR; node [shape=box, style=rounded];"]
    for cluster, label in _CLUSTERS.items():
        rows = [(name, text) for process, name, text, _ in _PARTS if process == cluster and name in wanted]
        if rows:
            lines += [f"    subgraph cluster_{cluster} {{", f'        label="{label}";']
            lines += [f'        {name} [label="{text}"];' for name, text in rows]
            lines.append("    }")
    lines += ["    broker [shape=cylinder];", "    backend [shape=cylinder];"]
    for _, name, _, targets in _PARTS:
        if name in wanted:
            lines += [f"    {name} -> {target};" for target in targets if target in wanted | {"broker", "backend"}]
    click.echo("\n".join([*lines, "}"]))


@command(name="workers", context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1)
def workers(shared: Shared, /, options: tuple[str, ...]) -> None:
    """Draw the workers that answer, with broker and result backend.

    OPTIONS: nodes:a,b and threads:4,2 instead of asking; generic (no addresses), enumerate, wmax:N workers and tmax:N
    slots at the most (0: all), broker:URL, backend:URL.
    """
    from celeriac.app.stores import shown_backend
    from celeriac.utils.urls import without_password

    args = {name: value for name, _, value in (option.partition(":") for option in options)}
    app = shared.load_app()
    with friendly_errors():
        broker = args.get("broker") or without_password(app.broker_url_effective)
        backend = args.get("backend") or ("" if not app.results_enabled else shown_backend(app))
        found = _named(args) if "nodes" in args else _asked(app)
    generic = "generic" in args
    lines = ["digraph workers {", f"    {_quoted(_place('Broker', broker, generic))} [shape=cylinder];"]
    if backend:
        lines.append(f"    {_quoted(_place('Backend', backend, generic))} [shape=folder];")
    for name, slots in _abbreviated(found, "Worker", _number(args, "wmax", 4), "enumerate" in args):
        lines.append(f"    {_quoted(name)} [shape=box, style=rounded];")
        lines.append(f"    {_quoted(name)} -> {_quoted(_place('Broker', broker, generic))};")
        if backend:
            lines.append(f"    {_quoted(name)} -> {_quoted(_place('Backend', backend, generic))};")
        shown = [(str(slot), 0) for slot in range(int(slots))]
        for slot, _ in _abbreviated(shown, "P", _number(args, "tmax", 3), "enumerate" in args):
            node = _quoted(f"{name}/{slot}")
            lines.append(f"    {node} [shape=oval, label={_quoted(slot)}];")
            lines.append(f"    {node} -> {_quoted(name)} [arrowhead=none];")
    click.echo("\n".join([*lines, "}"]))


main.add_command(workers)
main.add_command(workflow)
main.add_command(result)


def _named(args: dict[str, str]) -> list[tuple[str, int]]:
    names = args["nodes"].split(",")
    threads = [text for text in args.get("threads", "").split(",") if text]
    if any(not text.isdigit() for text in threads):
        stop(f"threads must be numbers, not {args['threads']!r}")
    slots = [int(text) for text in threads]
    return list(zip(names, slots + [0] * (len(names) - len(slots)), strict=False))


def _asked(app: Any) -> list[tuple[str, int]]:
    """Workers by what they answer to `inspect stats`."""
    inspect = getattr(app.control, "inspect", None)
    if inspect is None:
        stop("asking workers is not in this version of celeriac", "name them: graph workers nodes:a@host,b@host")
    replies = inspect().stats() or {}
    if not replies:
        stop("no worker answered", "name them: graph workers nodes:a@host,b@host", EXIT_FAILURE)
    return [(name, int(reply.get("pool", {}).get("max-concurrency", 0))) for name, reply in sorted(replies.items())]


def _number(args: dict[str, str], name: str, default: int) -> int:
    text = args.get(name, "")
    if text and not text.isdigit():
        stop(f"{name} must be a number, not {text!r}")
    return int(text) if text else default


def _abbreviated(rows: list[tuple[str, int]], word: str, most: int, numbered: bool) -> list[tuple[str, int]]:
    """No more than so many: the last but one stands for those left out."""
    if numbered:
        rows = [(f"{word}{str(place).translate(_SUBSCRIPTS)}", slots) for place, (_, slots) in enumerate(rows, 1)]
    if most > 1 and len(rows) > most:
        left_out = str(len(rows) - most + 1).translate(_SUBSCRIPTS)
        rows = [*rows[: most - 2], (f"{word[0]} … {left_out}", 0), rows[-1]]
    return rows


def _place(kind: str, url: str, generic: bool) -> str:
    return f"{kind} ({url.partition('://')[0]}://)" if generic else url


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
