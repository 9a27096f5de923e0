"""Measures celeriac on its embedded broker against Celery on Redis: A B A B in one run, medians, raw numbers kept.

`make bench` runs it. Options: `--rounds N`, `--only celeriac` (no Redis), `--profile dev` (to try the script itself).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import measures
from systems import BASE_PYTHON, CELERY, HERE, ROOT, System, ours, redis_server, theirs

Numbers = dict[str, list[float]]


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
    python = subprocess.run([BASE_PYTHON, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    kernel = f"{platform.system()} {platform.release().partition('-')[0]}"
    return {"cpu": cpu, "cores": str(os.cpu_count()), "kernel": kernel, "python": python, "celery": CELERY}


def measure(systems: list[System], rounds: int, scratch: Path) -> dict[str, Numbers]:
    """All measurements of all systems, one system after the other in each round."""
    found: dict[str, Numbers] = {system.name: {} for system in systems}
    for number in range(rounds):
        for each in measures.ALL:
            for system in systems:
                start = time.monotonic()
                for label, value in each(system, scratch).items():
                    found[system.name].setdefault(label, []).append(value)
                took = time.monotonic() - start
                name = each.__name__.replace("_", " ")
                print(f"  round {number + 1}: {name}, {system.name} ({took:.0f} s)", file=sys.stderr, flush=True)
    return found


def table(systems: list[System], found: dict[str, Numbers]) -> str:
    """Medians, as Markdown."""
    lines = ["| | " + " | ".join(system.name for system in systems) + " |", "|---|" + "---:|" * len(systems)]
    for label in found[systems[0].name]:
        values = [statistics.median(found[system.name][label]) for system in systems]
        lines.append(f"| {label} | " + " | ".join(shown(value) for value in values) + " |")
    lines.append("| guarantee | " + " | ".join(system.guarantee for system in systems) + " |")
    return "\n".join(lines)


def shown(value: float) -> str:
    """Three significant figures, or whole thousands with separators."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def main() -> int:
    """Prints the table on stdout, progress on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["celeriac", "celery"])
    parser.add_argument("--profile", default="release", help="cargo profile of the bridge")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=ROOT / "target", prefix="bench-") as folder:
        scratch = Path(folder)
        with nullcontext(None) if options.only == "celeriac" else redis_server(scratch) as redis_url:
            systems = [] if options.only == "celery" else ours(scratch, options.profile)
            if redis_url is not None:
                systems[1:1] = theirs(redis_url)
            found = measure(systems, options.rounds, scratch)

    moment = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    raw = {"when": moment, "profile": options.profile, "machine": machine(), "numbers": found}
    (results / f"{moment}.json").write_text(json.dumps(raw, indent=1) + "\n")
    where = machine()
    print(table(systems, found))
    print(f"\n{where['cores']} x {where['cpu']}, {where['python']}, medians of {options.rounds} alternating rounds;")
    print(f"raw numbers: benchmarks/results/{moment}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
