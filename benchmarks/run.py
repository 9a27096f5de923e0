"""Measures celeriac against Celery and its rivals on Redis and RabbitMQ, and on its embedded broker.

`make bench` runs it all. In each round every measurement goes over all systems of a broker in turn (A B C A B C);
medians are printed, raw numbers kept. `--quick --profile FILE.whl` tries the script itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import measures
import systems
from servers import rabbitmq_server, redis_server
from systems import HERE, System

Numbers = dict[str, dict[str, list[float]]]
BROKERS = {"redis": "Redis", "rabbitmq": "RabbitMQ, results in Redis", "embedded": "Embedded, no broker"}
QUICK_SCALE = 0.1


def machine() -> dict[str, str]:
    """Where the numbers come from."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    kernel = f"{platform.system()} {platform.release().partition('-')[0]}"
    python = systems.version(Path(systems.BASE_PYTHON))
    return {"cpu": cpu, "cores": str(os.cpu_count()), "kernel": kernel, "python": python}


class Run:
    """One run: what is measured, what was found, and what went wrong."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.found: Numbers = {}
        self.columns: list[System] = []
        self.notes: list[str] = []
        self.failed = False

    def note(self, text: str) -> None:
        """Keeps it for the foot of the tables, once."""
        if text not in self.notes:
            self.notes.append(text)
            print(f"  note: {text}", file=sys.stderr, flush=True)

    def install(self) -> dict[str, Path]:
        """The interpreters of those systems that could be installed."""
        ready = {}
        for family in self.options.systems:
            if not systems.takes_part(family, self.options.only):
                continue
            try:
                ready[family] = systems.install(family, self.options.profile)
            except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                self.note(f"{family} is not measured, it does not install: {error}")
                self.failed |= family in {"celeriac", "celery"}
                continue
            if not systems.optimised(systems.interpreter(family)):
                self.note(
                    f"{family} runs on {systems.version(ready[family])}, which is not built with profile-guided "
                    "optimisation as the others' is: on such a build Celery itself takes a quarter more CPU for a task"
                )
        return ready

    def measure(self) -> None:
        """Everything: each round, each broker, each measurement, each system."""
        interpreters = self.install()
        target = HERE.parent / "target"  # on a disk: a temporary folder may be in memory, where fsync costs nothing
        target.mkdir(exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=target, prefix="bench-", ignore_cleanup_errors=True) as folder,
            ExitStack() as servers,
        ):
            scratch = Path(folder)
            needs_redis = self.options.only != ["embedded"]
            redis = servers.enter_context(redis_server(scratch)) if needs_redis else None
            bench = measures.Bench(scratch, redis, None)
            if self.options.quick:
                bench = replace(bench, calls=30, large_calls=5, idle_seconds=0.5, backlogs=(2_000, 10_000))
            for number in range(self.options.rounds):
                for broker in self.options.only:
                    with ExitStack() as node:
                        if broker == "rabbitmq":
                            bench.rabbitmq = node.enter_context(rabbitmq_server(scratch))
                            bench.dirty = False
                        urls = {
                            "redis": redis.url if redis else "",
                            "rabbitmq": bench.rabbitmq.url if bench.rabbitmq else "",
                        }
                        columns = systems.chosen(self.options.systems, broker, interpreters, urls, scratch)
                        self.round(number, columns, bench)
                        bench.rabbitmq = None

    def round(self, number: int, columns: list[System], bench: measures.Bench) -> None:
        """Every measurement, each over all systems of one broker in turn."""
        if self.options.quick:
            columns = [replace(column, loads=column.loads.scaled(QUICK_SCALE)) for column in columns]
        if number == 0:
            self.columns += columns
        for row in self.options.rows:
            for system in columns:
                start, numbers = time.monotonic(), self.found.setdefault(system.key, {})
                try:
                    for label, value in measures.ROWS[row](system, bench).items():
                        numbers.setdefault(label, []).append(value)
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    self.failed = bench.dirty = True
                    self.note(f"{system.key}, {row}: {error}")
                took = time.monotonic() - start
                print(f"  round {number + 1}: {row}, {system.key} ({took:.0f} s)", file=sys.stderr, flush=True)

    def table(self, broker: str) -> str:
        """One broker's medians as Markdown, each with its factor against Celery: above 1 is better than Celery."""
        columns = [column for column in self.columns if column.broker == broker]
        reference = next((column for column in self.columns if column.family == "celery"), None)
        same = next((column for column in columns if column.family == "celery"), None)
        beside = same or reference
        base = self.found[beside.key] if beside else {}
        if broker == "embedded" and reference:
            columns.append(reference)
        lines = [f"### {BROKERS[broker]}", ""]
        titles = [f"{column.name}, {column.broker}" if column.broker != broker else column.name for column in columns]
        lines += ["| | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(columns)]
        own = [column for column in columns if column.broker == broker]
        for label in labels(self.found[column.key] for column in own):
            if label.startswith("import") and broker == "redis" and "embedded" in self.options.only:
                continue  # taken here for Celery, shown beside celeriac's
            cells = []
            for column in columns:
                values = self.found[column.key].get(label)
                cells.append(cell(label, values, base.get(label), reference=column.family == "celery"))
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        lines.append("| worker | " + " | ".join(column.shape for column in columns) + " |")
        lines.append("| guarantee | " + " | ".join(column.guarantee for column in columns) + " |")
        return "\n".join(lines)

    def tables(self) -> str:
        """All tables with their notes."""
        where = machine()
        parts = [self.table(broker) for broker in self.options.only if any(c.broker == broker for c in self.columns)]
        conditions = (
            f"{where['cores']} x {where['cpu']}, {where['kernel']}, {where['python']}; medians of {self.options.rounds} "
            "alternating rounds. In brackets: how many times better than Celery in the same run (for a cost: Celery's "
            "divided by this one's). Redis keeps everything in memory and nothing on disk."
        )
        foot = [conditions]
        if self.options.quick:
            foot.append("**Quick run with tiny loads: these figures say that everything works, and no more.**")
        notes = "\n".join(f"- {note}" for note in self.notes)
        return "\n\n".join([*parts, *foot, notes]).rstrip()


def labels(numbers: Iterable[dict[str, list[float]]]) -> list[str]:
    """Every row that any of the systems has, in the order of the measurements."""
    return list(dict.fromkeys(label for each in numbers for label in each))


def cell(label: str, values: list[float] | None, base: list[float] | None, *, reference: bool) -> str:
    """A median, and how it compares."""
    if not values:
        return "-"
    value = statistics.median(values)
    if reference or not base or "%" in label:
        return shown(value)
    against = statistics.median(base)
    factor = value / against if label.endswith("per second") else against / value if value else 0.0
    return f"{shown(value)} (x{shown(factor)})" if factor else shown(value)


def shown(value: float) -> str:
    """Three significant figures, or whole thousands with separators."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def options() -> argparse.Namespace:
    """The command line."""

    def several(allowed: Iterable[str]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            names = text.split(",")
            if unknown := [name for name in names if name not in allowed]:
                raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(allowed)}")
            return [name for name in allowed if name in names]

        return parse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, allowed, text in (
        ("--only", BROKERS, "tables to make"),
        ("--systems", systems.FAMILIES, "systems to measure"),
        ("--rows", measures.ROWS, "measurements to take"),
    ):
        parser.add_argument(
            name, type=several(allowed), default=list(allowed), metavar="A,B", help=f"{text}: {', '.join(allowed)}"
        )
    parser.add_argument("--rounds", type=int, default=None, help="2, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="tiny loads, to see that everything works")
    parser.add_argument("--profile", default="release", help="cargo profile of the bridge; or a wheel; or a folder")
    chosen = parser.parse_args()
    chosen.rounds = chosen.rounds or (1 if chosen.quick else 2)
    return chosen


def main() -> int:
    """Prints the tables on stdout, progress on stderr; 1 if a measurement failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # by way of every `finally`: servers and workers end
    run = Run(options())
    run.measure()
    moment = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    tables = run.tables()
    print(tables)
    if not run.options.quick:
        results = HERE / "results"
        results.mkdir(exist_ok=True)
        raw = {
            "when": moment,
            "profile": run.options.profile,
            "machine": machine(),
            "packages": {family: systems.PACKAGES.get(family, ()) for family in run.options.systems},
            "notes": run.notes,
            "numbers": run.found,
        }
        (results / f"{moment}.json").write_text(json.dumps(raw, indent=1) + "\n")
        print(f"\nRaw numbers: benchmarks/results/{moment}.json")
    return int(run.failed)


if __name__ == "__main__":
    sys.exit(main())
