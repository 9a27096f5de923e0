"""The systems that are compared: how each is installed, started and emptied, and what it guarantees meanwhile."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CELERY = "celery[redis]==5.7.0"
# Distributions build this one with profile-guided optimisation; both systems run on the same.
BASE_PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable


@dataclass(frozen=True)
class System:
    """One column of the table."""

    name: str
    module: str
    python: Path
    url: str
    load: int
    guarantee: str

    def environment(self) -> dict[str, str]:
        """For the probe and the worker alike."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        return {**clean, "BENCH_SYSTEM": self.module, "BENCH_URL": self.url, "PYTHONDONTWRITEBYTECODE": ""}

    @property
    def database(self) -> Path | None:
        """The file of the embedded broker."""
        return Path(self.url.removeprefix("sqlite:///").partition("?")[0]) if "sqlite" in self.url else None

    def relaxed(self) -> dict[str, str]:
        """The environment to fill the queue with: how long that takes is not measured."""
        url = f"sqlite:///{self.database}?synchronous=normal" if self.database else self.url
        return {**self.environment(), "BENCH_URL": url}

    def empty(self) -> None:
        """Forgets every message and result."""
        if self.database is None:
            with socket.create_connection(("127.0.0.1", port_of(self.url))) as redis:
                redis.sendall(b"FLUSHALL\r\n")
                redis.recv(64)
        else:
            for path in self.database.parent.glob(f"{self.database.name}*"):
                path.unlink()


def port_of(url: str) -> int:
    """The port in a Redis URL."""
    return int(url.rsplit(":", 1)[1].partition("/")[0])


def ours(scratch: Path, profile: str) -> list[System]:
    """Celeriac on its embedded broker, durable and relaxed."""
    python = environment("celeriac")
    install_ours(python, profile)
    url, early = f"sqlite:///{scratch / 'tasks.db'}", "acknowledged when it begins"
    relaxed = f"file, fsync at checkpoints: survives a crash, not a power cut; {early}"
    return [
        System("celeriac", "celeriac", python, url, 20_000, f"file, fsync at every commit; {early}"),
        System("celeriac, normal", "celeriac", python, f"{url}?synchronous=normal", 20_000, relaxed),
    ]


def theirs(redis_url: str) -> list[System]:
    """Celery on Redis."""
    python = environment("celery")
    pip(python, CELERY)
    guarantee = "in Redis' memory only; acknowledged when it begins"
    return [System("Celery, Redis", "celery", python, redis_url, 2_000, guarantee)]


def environment(name: str) -> Path:
    """A virtual environment of that name; returns its interpreter."""
    folder = HERE / f".venv-{name}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([BASE_PYTHON, "-m", "venv", str(folder)], check=True)
    return python


def pip(python: Path, *packages: str) -> None:
    """Installs into that environment."""
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)


def install_ours(python: Path, profile: str) -> None:
    """Builds the wheel and installs it: what is measured is what users get."""
    wheels = ROOT / "target" / "bench-wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    maturin = str(Path(sys.executable).with_name("maturin"))
    chosen = ["--release"] if profile == "release" else ["--profile", profile]
    subprocess.run([maturin, "build", "--quiet", *chosen, "--out", str(wheels)], cwd=ROOT, check=True)
    (wheel,) = wheels.glob("*.whl")
    pip(python, "-c", str(ROOT / "constraints.txt"), "click")
    pip(python, "--force-reinstall", "--no-deps", str(wheel))


@contextmanager
def redis_server(scratch: Path) -> Iterator[str]:
    """A private server without persistence, on a free port."""
    if shutil.which("redis-server") is None:
        sudo = [] if os.geteuid() == 0 else ["sudo"]
        subprocess.run([*sudo, "apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
        install = [*sudo, "apt-get", "install", "-y", "-q", "--no-install-recommends", "redis-server"]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(scratch)]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()
