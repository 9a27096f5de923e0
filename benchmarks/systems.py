"""The systems that are compared: how each is installed and started, how much it is given, and what it guarantees."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from servers import RabbitMQ, Redis

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Distributions build this one with profile-guided optimisation; all that install on it run on it.
BASE_PYTHON = os.environ.get("BENCH_PYTHON") or next(filter(os.path.exists, ("/usr/bin/python3", sys.executable)))
PACKAGES = {
    "celery": ("celery[redis]==5.7.0",),
    "dramatiq": ("dramatiq[redis,rabbitmq]==2.2.0",),
    "ardiq": ("ardiq==1.2.0",),
    "mayu": ("mayu==0.2.5",),
    "cauli": ("cauli==0.1.0", "cauli-worker==0.1.0"),
}
NEWEST_NEEDED = {"ardiq": (3, 12), "mayu": (3, 13)}
FAMILIES = ("celeriac", *PACKAGES)
TABLES = {"redis": FAMILIES, "rabbitmq": ("celeriac", "celery", "dramatiq"), "embedded": ("celeriac",)}
EARLY, LATE = "acknowledged when it begins", "acknowledged after the run"


@dataclass(frozen=True)
class Loads:
    """How many tasks each measurement gives; chosen for two to four seconds."""

    drain: int
    calls: int
    batch: int = 0
    backlog: int = 0

    def scaled(self, scale: float) -> Loads:
        """A small part, to try the script itself."""
        numbers = {name: int(getattr(self, name) * scale) for name in ("drain", "calls", "batch", "backlog")}
        return replace(self, **numbers)


@dataclass(frozen=True)
class System:
    """One column of a table."""

    name: str
    family: str
    broker: str
    python: Path
    url: str
    backend: str
    app: str
    command: tuple[str, ...]
    loads: Loads
    shape: str
    guarantee: str
    results: str

    def environment(self, counters: Path, *, results: bool = True, relaxed: bool = False) -> dict[str, str]:
        """For the probe and the worker alike."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        url = f"{self.url.partition('?')[0]}?synchronous=normal" if relaxed and self.database else self.url
        scripts = self.python.parent
        return {
            **clean,
            "PATH": f"{scripts}:{clean.get('PATH', '')}",  # as `activate` does: an embedded Python finds itself by it
            "VIRTUAL_ENV": str(scripts.parent),
            "PYTHONPATH": str(HERE / "apps"),
            "BENCH_SYSTEM": self.family,
            "BENCH_APP": self.app,
            "BENCH_URL": url,
            "BENCH_BACKEND": url if self.backend == self.url else self.backend,
            "BENCH_RESULTS": "1" if results else "0",
            "BENCH_COUNTERS": str(counters),
        }

    @property
    def key(self) -> str:
        """For files and for raw numbers."""
        return f"{self.broker}: {self.name}"

    @property
    def likeness(self) -> bool:
        """Whether it has Celery's API, and the wire format on Redis."""
        return self.family in {"celeriac", "celery"}

    @property
    def database(self) -> Path | None:
        """The file of the embedded broker."""
        return Path(self.url.removeprefix("sqlite:///").partition("?")[0]) if "sqlite" in self.url else None

    def empty(self, redis: Redis | None, rabbitmq: RabbitMQ | None) -> None:
        """Forgets every message and result."""
        if self.database is not None:
            for path in self.database.parent.glob(f"{self.database.name}*"):
                path.unlink()
        if redis is not None:
            redis.do("FLUSHALL")
        if rabbitmq is not None and self.broker == "rabbitmq":
            rabbitmq.empty()


def celery_like(python: Path, family: str) -> tuple[str, ...]:
    """Two children, log level WARNING, all else default."""
    return (str(python), "-m", family, "-A", "celery_app", "worker", "-c", "2", "-l", "WARNING")


def embedded(python: Path, scratch: Path) -> list[System]:
    """Celeriac with no broker, durable and relaxed."""
    url, shape = f"sqlite:///{scratch / 'tasks.db'}", "2 children"
    durable = System(
        "celeriac", "celeriac", "embedded", python, url, url, "celery_app", celery_like(python, "celeriac"),
        Loads(20_000, 5_000, 20_000), shape, f"file, fsync at every commit; {EARLY}", "",
    )  # fmt: skip
    weaker = f"file, fsync at checkpoints: survives a crash, not a power cut; {EARLY}"
    faster = f"{url}?synchronous=normal"
    return [durable, replace(durable, name="celeriac, normal", url=faster, backend=faster, guarantee=weaker)]


def on_redis(family: str, python: Path, url: str) -> System:
    """One system on Redis."""
    program = str(python.with_name(family))
    url = f"{url}/0"
    like = celery_like(python, family)
    lines: dict[str, tuple[str, str, tuple[str, ...], Loads, str, str, str]] = {
        "celeriac": ("celeriac", "celery_app", like, Loads(100_000, 10_000, 50_000, 20_000),
                     "2 children", EARLY, "celery-task-meta-*"),
        "celery": ("Celery 5.7", "celery_app", like, Loads(2_000, 1_500, 2_000, 1_200),
                   "2 children", EARLY, "celery-task-meta-*"),
        "dramatiq": ("Dramatiq 2.2", "dramatiq_app", (program, "-p", "2", "-t", "8", "dramatiq_app"), Loads(6_000, 4_000),
                     "2 processes x 8 threads", LATE, "[0-9a-f]" * 32),
        "ardiq": ("ardiq 1.2", "ardiq_app", (program, "run", "-q", "-w", "2", "ardiq_app:app"), Loads(12_000, 5_000, 20_000),
                  "2 processes, coroutines", f"{LATE}; always keeps results", "ardiq:*:task:results:*"),
        "mayu": ("mayu 0.2", "mayu_app", (program, "worker", "--processes", "2", "--mode", "process", "--log-level", "WARNING", "mayu_app:app"),
                 Loads(20_000, 8_000), "2 processes", LATE, "mayu:result:*"),
        "cauli": ("cauli 0.1", "cauli_app", (f"{program}-worker", "-A", "cauli_app:app", "--procs", "2", "--io-threads", "8",
                  "--max-envelope-bytes", str(8 << 20), "--log-level", "warn"), Loads(100_000, 10_000, 50_000, 20_000),
                  "2 processes x 8 threads", f"{LATE}, in groups of 64 or after 2 ms", "cauli:result:*"),
    }  # fmt: skip
    name, app, command, loads, shape, guarantee, results = lines[family]
    return System(name, family, "redis", python, url, url, app, command, loads, shape, guarantee, results)


def on_rabbitmq(family: str, python: Path, url: str, results: str) -> System:
    """One system on RabbitMQ, results in Redis."""
    system = on_redis(family, python, results)
    loads = {
        "celeriac": Loads(30_000, 3_000, 20_000),
        "celery": Loads(4_000, 2_500, 3_000),
        "dramatiq": Loads(8_000, 8_000),
    }[family]
    confirmed = "publishing waits for the broker's confirmation" if family == "celeriac" else "published unconfirmed"
    return replace(system, broker="rabbitmq", url=url, loads=loads, guarantee=f"{confirmed}; {system.guarantee}")


def interpreter(family: str) -> str:
    """Which Python a system runs on: the optimised one where it can."""
    need = NEWEST_NEEDED.get(family, (3, 11))
    found = [BASE_PYTHON, *(name for minor in (14, 13, 12) if (name := shutil.which(f"python3.{minor}")))]
    found += sorted(map(str, Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python3")), reverse=True)
    for python in found:
        asked = [python, "-c", f"import sys; sys.exit(sys.version_info < {need})"]
        if subprocess.run(asked, capture_output=True).returncode == 0:
            return python
    raise RuntimeError(f"it needs Python {need[0]}.{need[1]} or newer, and there is none here")


def optimised(base: str) -> bool:
    """Whether an interpreter was built with profile-guided optimisation; distributions do so without saying it."""
    code = "import sysconfig; print('--enable-optimizations' in (sysconfig.get_config_var('CONFIG_ARGS') or ''))"
    asked = subprocess.run([base, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return base.startswith("/usr/bin/") or asked == "True"


def version(python: Path) -> str:
    """What it calls itself."""
    return subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def environment(family: str, base: str) -> Path:
    """A virtual environment for that system; returns its interpreter."""
    folder = HERE / f".venv-{family}-{version(Path(base)).removeprefix('Python ')}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([base, "-m", "venv", str(folder)], check=True, capture_output=True)
    return python


def pip(python: Path, *packages: str) -> None:
    """Installs into that environment."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip failed")


def install(family: str, profile: str) -> Path:
    """Makes the environment of a system and fills it; returns its interpreter."""
    python = environment(family, interpreter(family))
    if family == "celeriac":
        install_ours(python, profile)
    else:
        stamp = python.parent.parent / "installed"
        wanted = " ".join(PACKAGES[family])
        if not stamp.exists() or stamp.read_text() != wanted:
            pip(python, *PACKAGES[family])
            stamp.write_text(wanted)
    return python


def install_ours(python: Path, profile: str) -> None:
    """Builds the wheel and installs it: what is measured is what users get.

    `profile` may also be a wheel, or a folder with a built package in it, to try the script without building.
    """
    pip(python, "-c", str(ROOT / "constraints.txt"), "click")
    if Path(profile).is_dir():
        (site,) = python.parent.parent.glob("lib/python3*/site-packages")
        (site / "celeriac-tried.pth").write_text(f"{Path(profile).resolve()}\n")
        return
    if profile.endswith(".whl"):
        wheel = Path(profile)
    else:
        wheels = ROOT / "target" / "bench-wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        maturin = str(Path(sys.executable).with_name("maturin"))
        chosen = ["--release"] if profile == "release" else ["--profile", profile]
        subprocess.run([maturin, "build", "--quiet", *chosen, "--out", str(wheels)], cwd=ROOT, check=True)
        (wheel,) = wheels.glob("*.whl")
    for stale in python.parent.parent.glob("lib/python3*/site-packages/celeriac-tried.pth"):
        stale.unlink()
    pip(python, "--force-reinstall", "--no-deps", str(wheel))


def takes_part(family: str, brokers: list[str]) -> bool:
    """Whether a system is in any of those tables."""
    return any(family in TABLES[broker] for broker in brokers)


def chosen(
    families: list[str],
    broker: str,
    interpreters: dict[str, Path],
    urls: dict[str, str],
    scratch: Path,
) -> list[System]:
    """The columns of one table."""
    present = [family for family in families if family in interpreters and family in TABLES[broker]]
    if broker == "embedded":
        return embedded(interpreters["celeriac"], scratch) if present else []
    if broker == "rabbitmq":
        return [on_rabbitmq(family, interpreters[family], urls[broker], urls["redis"]) for family in present]
    return [on_redis(family, interpreters[family], urls[broker]) for family in present]
