"""The process of `worker --outbox`: a relay with the worker's app and settings. Not a command: workers start it."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Runs the relay that the worker describes."""
    from celeriac.app import log
    from celeriac.app.outbox.relay import Relay
    from celeriac.compat import install_if_wanted
    from celeriac.worker.process import die_with_parent
    from celeriac.worker.setup import Setup

    install_if_wanted()
    die_with_parent(int(sys.argv[1]))
    setup = Setup.from_environment()
    app = setup.load_app()
    setup.apply_settings(app)
    log.setup(setup.log_options(app))
    relay = Relay.of_url(app, app.conf.outbox_url)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, relay.stop)
    relay.run()


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main()
