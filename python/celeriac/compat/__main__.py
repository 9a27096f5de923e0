"""`python -m celeriac.compat SCRIPT|-m MODULE [arguments]`: runs a program in which `celery` is celeriac."""

from __future__ import annotations

import os
import runpy
import sys

from celeriac.compat import SHIM, install

USAGE = """usage: python -m celeriac.compat SCRIPT [ARGUMENT ...]
       python -m celeriac.compat -m MODULE [ARGUMENT ...]
       python -m celeriac.compat --path

Runs the script or module, as python itself would, in a process in which `import celery` gives celeriac. --path prints a
folder: first in PYTHONPATH, it does the same for any program."""


def main(argv: list[str]) -> None:
    """Runs what the arguments name.

    Raises:
        SystemExit: With a usage line, when they name nothing.
    """
    if argv[:1] in (["-h"], ["--help"]):
        print(USAGE)  # noqa: T201 -- asked for
        return
    if argv == ["--path"]:
        print(SHIM)  # noqa: T201 -- asked for
        return
    by_name = argv[:1] == ["-m"]
    rest = argv[1:] if by_name else argv
    if not rest or (rest[0].startswith("-") and not by_name):
        sys.exit(USAGE)
    install()
    sys.argv[:] = rest
    if by_name:
        # `python -m` has put the working directory there already.
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    if not os.path.exists(rest[0]):
        sys.exit(f"can't open file {rest[0]!r}: there is no such file. A module is named with -m")
    if not os.path.isdir(rest[0]):
        # As python does for a script; a folder or an archive is put there by runpy.
        sys.path[0] = os.path.dirname(os.path.realpath(rest[0]))
    runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
