"""What a tree of processes uses, read from /proc and from the scheduler's clocks."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def clock(pid: int) -> float:
    """CPU of a process with all its threads, the ended ones too, in nanosecond steps (CPUCLOCK_SCHED of Linux)."""
    return time.clock_gettime(((~pid) << 3) | 2)


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and was not waited for does not."""
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        return False


def children_of() -> dict[int, list[int]]:
    """Every process's children."""
    tree: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                tree.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    return tree


def members(root: int) -> list[int]:
    """The process and all that descend from it."""
    tree = children_of()
    found, open_ends = [], [root]
    while open_ends:
        pid = open_ends.pop()
        found.append(pid)
        open_ends.extend(tree.get(pid, []))
    return found


def leaves(root: int) -> set[int]:
    """Those that have no children and are no zombies: the ones that run tasks."""
    tree = children_of()
    found = set()
    for pid in members(root):
        with suppress(OSError, IndexError):
            if pid != root and not tree.get(pid) and _stat(pid)[0] != "Z":
                found.add(pid)
    return found


def cpu_seconds(root: int) -> float:
    """CPU of the tree, with that of children which ended and were waited for (theirs in steps of a tick)."""
    total = 0.0
    for pid in members(root):
        with suppress(OSError, IndexError):
            total += clock(pid) + sum(int(value) for value in _stat(pid)[13:15]) / TICKS
    return total


def pss_mb(root: int) -> float:
    """Proportional set size of the tree."""
    kib = 0
    for pid in members(root):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kib += int(line.split()[1])
    return kib / 1024


def end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Gives a process that was asked to end some time, then kills it and what descends from it."""
    tree = members(process.pid)
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    for pid in tree if process.poll() is None else []:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state (field 3) on; the name before it may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
