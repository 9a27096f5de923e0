"""`import celery` without Celery: `celery` and its submodules become celeriac, here and in processes started from here.

Three ways in: `install()`, `python -m celeriac.compat SCRIPT|-m MODULE`, and `CELERIAC_COMPAT=1` for `python -m celeriac`.
"""

from __future__ import annotations

import os
import sys

__all__ = ["ENVIRONMENT_KEY", "SHIM", "VERSION", "install", "install_if_wanted", "installed"]

#: The Celery that celeriac is compatible with; `celery.__version__` under the alias.
VERSION = "5.7.0"
#: Set by `install`, so that commands started from here do the same; or set by the user.
ENVIRONMENT_KEY = "CELERIAC_COMPAT"

#: A folder with a `celery` for processes that begin without any of this: found on `PYTHONPATH`, it installs the alias.
SHIM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shim")
_OFF = frozenset({"", "0", "false", "no", "off"})


def install() -> None:
    """Makes `celery` and its public submodules resolve to celeriac in this process, and in those started from it.

    Must come before the first `import celery`. A Celery that is installed is never used after it. An app that names no
    broker means Celery's default from here on, `amqp://guest@localhost//`, and has no result backend unless it names one.

    Raises:
        RuntimeError: Another `celery` was imported before.
    """
    from celeriac import _state
    from celeriac.compat.facade import CeleryModule
    from celeriac.compat.finder import CeleryFinder

    present = sys.modules.get("celery")
    # The shim is this very call's reason.
    if present is not None and not isinstance(present, CeleryModule) and not _is_shim(present):
        place = getattr(present, "__file__", None) or "an unknown place"
        raise RuntimeError(
            f"celery was imported already, from {place}: what has it now would not see celeriac. Call "
            "celeriac.compat.install() before anything imports celery, or start with `python -m celeriac.compat`"
        )
    if not any(isinstance(finder, CeleryFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, CeleryFinder())
    if not isinstance(present, CeleryModule):
        sys.modules["celery"] = CeleryModule()
    _state.celery_defaults = True
    _reach_children()


def install_if_wanted() -> None:
    """Does it when the environment says so (`CELERIAC_COMPAT`): what each of celeriac's own programs begins with."""
    if os.environ.get(ENVIRONMENT_KEY, "").strip().lower() not in _OFF:
        install()


def installed() -> bool:
    """Whether `celery` is celeriac in this process."""
    from celeriac import _state

    return _state.celery_defaults


def _is_shim(module: object) -> bool:
    return os.path.dirname(os.path.dirname(getattr(module, "__file__", None) or "")) == SHIM


def _reach_children() -> None:
    os.environ[ENVIRONMENT_KEY] = "1"
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if SHIM not in before:
        # Where celeriac is may be known to this process alone (a path added by hand).
        home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        os.environ["PYTHONPATH"] = os.pathsep.join([SHIM, *(path for path in before if path), home])
