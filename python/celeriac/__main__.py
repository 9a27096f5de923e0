"""`python -m celeriac`."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> None:
    """The command line; also the console script `celeriac`.

    Args:
        argv: Arguments, without the program's name; those of the process unless given.
    """
    from celeriac.compat import install_if_wanted

    install_if_wanted()
    from celeriac.bin import celeriac

    celeriac(argv, prog_name="celeriac" if sys.argv[0].endswith("celeriac") else "python -m celeriac")


if __name__ == "__main__":
    main()
