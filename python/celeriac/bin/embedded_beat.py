"""The process of `worker -B`: a beat with the worker's app and settings. Not a command: workers start it."""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Runs the beat that the worker describes: how to make the app, in the environment; the rest as arguments."""
    from celeriac.compat import install_if_wanted
    from celeriac.worker.process import die_with_parent
    from celeriac.worker.setup import Setup

    install_if_wanted()
    parent, options = int(sys.argv[1]), json.loads(sys.argv[2])
    die_with_parent(parent)
    setup = Setup.from_environment()
    app = setup.load_app()
    setup.apply_settings(app)
    level, logfile = setup.log.get("level") or "WARNING", setup.log.get("logfile")
    app.Beat(
        loglevel=level,
        logfile=logfile,
        log_json=bool(setup.log.get("as_json")),
        no_color=True if setup.log.get("colorize") is False else None,
        schedule=options["schedule"],
        scheduler=options["scheduler"],
        quiet=True,
    ).run_embedded()


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main()
