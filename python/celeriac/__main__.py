"""`python -m celeriac`."""

from __future__ import annotations

import sys


def main() -> None:
    """The command line; also the console script `celeriac`."""
    from celeriac.bin import celeriac

    celeriac(prog_name="celeriac" if sys.argv[0].endswith("celeriac") else "python -m celeriac")


if __name__ == "__main__":
    main()
