"""Builds the wheel, installs it into a fresh environment of each Python found, and runs a task there.

Without `--release` the quick profile is used, whose dependencies the tests have built already.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
VERSIONS = ("3.11", "3.12", "3.13")
SMOKE = Path(__file__).with_name("smoke.py")


def find(version: str) -> str | None:
    """An interpreter of that version that really starts: from PATH, or one that pyenv keeps."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    kept = sorted(home.glob(f"{version}.*/bin/python"), reverse=True)
    for candidate in [shutil.which(f"python{version}"), *map(str, kept)]:
        if candidate is None:
            continue
        ask = [candidate, "-c", "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
        if answer.returncode == 0 and answer.stdout.strip() == version:
            return candidate
    return None


def build(release: bool, into: Path) -> Path:
    """Builds one abi3 wheel."""
    profile = ["--release"] if release else ["--profile", "dev"]
    maturin = str(Path(sys.executable).with_name("maturin"))
    subprocess.run([maturin, "build", "--quiet", *profile, "--out", str(into)], cwd=ROOT, check=True)
    (wheel,) = into.glob("celeriac-*.whl")
    return wheel


def try_on(python: str, wheel: Path, folder: Path) -> None:
    """Installs the wheel in a new environment and runs the smoke test there, away from the sources."""
    subprocess.run([python, "-m", "venv", str(folder / "venv")], check=True)
    inside = str(folder / "venv" / "bin" / "python")
    pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    shutil.copy(SMOKE, folder / "smoke.py")
    subprocess.run([inside, "smoke.py"], cwd=folder, env=environment, check=True, timeout=120)


def main() -> int:
    """Exit code 0 when the wheel worked on every interpreter found, and at least one was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", action="store_true", help="the wheel to publish; kept in dist/")
    release = parser.parse_args().release

    with tempfile.TemporaryDirectory() as scratch:
        wheel = build(release, Path(scratch))
        print(f"built {wheel.name}, {wheel.stat().st_size // 1024} KiB", flush=True)
        tried = []
        for version in VERSIONS:
            python = find(version)
            if python is None:
                print(f"Python {version}: not found, not tried")
                continue
            folder = Path(scratch, version)
            folder.mkdir()
            try_on(python, wheel, folder)
            tried.append(version)
            print(f"Python {version}: works ({python})", flush=True)
        if release:
            (ROOT / "dist").mkdir(exist_ok=True)
            print("kept as", shutil.copy(wheel, ROOT / "dist"))
    return 0 if tried else 1


if __name__ == "__main__":
    sys.exit(main())
