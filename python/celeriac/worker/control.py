"""Commands that workers know: those that the engine answers, and those that an app adds.

    from celeriac.worker.control import control_command, inspect_command

    @control_command(args=[("n", int)], signature="[N=1]")
    def increase(state, n=1):
        return {"ok": "increased"}

An app's commands run on the worker's main thread, one after another; the engine goes on meanwhile.
"""

from __future__ import annotations

import json
import logging
from collections import UserDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from celeriac.exceptions import WorkerShutdown, WorkerTerminate

if TYPE_CHECKING:
    from celeriac import _core

__all__ = ["Panel", "control_command", "controller_info_t", "inspect_command", "nok", "ok"]

logger = logging.getLogger("celery.worker.control")

Handler = TypeVar("Handler", bound=Callable[..., Any])


class controller_info_t(NamedTuple):
    """What is known of a command."""

    alias: str | None
    type: str
    visible: bool
    default_timeout: float
    help: str
    signature: str | None
    args: list[tuple[str, Callable[[Any], Any] | None]] | None
    variadic: str | None


def ok(value: Any) -> dict[str, Any]:
    """The answer of a command that worked."""
    return {"ok": value}


def nok(value: Any) -> dict[str, Any]:
    """The answer of a command that did not."""
    return {"error": value}


class Panel(UserDict[str, Callable[..., Any]]):
    """All commands, by name."""

    #: Name -> function. Those of the engine have one that only says so.
    data: ClassVar[dict[str, Callable[..., Any]]] = {}  # type: ignore[misc]
    #: Name -> what is known of it.
    meta: ClassVar[dict[str, controller_info_t]] = {}

    @classmethod
    def register(cls, *args: Any, **kwargs: Any) -> Any:
        """Registers a function; as a decorator, with or without arguments."""
        return cls._register(**kwargs)(*args) if args else cls._register(**kwargs)

    @classmethod
    def _register(
        cls,
        name: str | None = None,
        alias: str | None = None,
        type: str = "control",
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,
        signature: str | None = None,
        args: list[tuple[str, Callable[[Any], Any] | None]] | None = None,
        variadic: str | None = None,
    ) -> Callable[[Handler], Handler]:
        def decorate(function: Handler) -> Handler:
            known_as = name or function.__name__
            text = help or (function.__doc__ or "").strip().split("\n")[0]
            info = controller_info_t(alias, type, visible, default_timeout, text, signature, args, variadic)
            cls.data[known_as], cls.meta[known_as] = function, info
            if alias:
                cls.data[alias] = function
            return function

        return decorate

    @classmethod
    def own(cls) -> list[str]:
        """Names of the commands that the engine does not answer."""
        return sorted(name for name, function in cls.data.items() if function is not _by_engine)


def control_command(**kwargs: Any) -> Callable[[Handler], Handler]:
    """Registers a function as a command that changes something.

    Its first argument is `state`, with `app`, `hostname` and `consumer`; the others come by name. What it returns is
    the answer; an exception becomes `{"error": repr}`.

    Args:
        **kwargs: `name`, `alias`, `args` (names and types, for the command line), `signature` (its usage, likewise),
            `variadic` (the name of what takes all further arguments), `default_timeout`, `help`, `visible`.
    """
    decorator: Callable[[Handler], Handler] = Panel.register(type="control", **kwargs)
    return decorator


def inspect_command(**kwargs: Any) -> Callable[[Handler], Handler]:
    """Registers a function as a command that only looks. As `control_command` otherwise."""
    decorator: Callable[[Handler], Handler] = Panel.register(type="inspect", **kwargs)
    return decorator


class State(dict[str, Any]):
    """What a command is given: `app`, `hostname`, `consumer` (with its `controller`) and `tset`, as attributes or items."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"a command's state has no {name!r}") from None


class Desk:
    """Carries out the app's commands, on the main thread."""

    def __init__(self, app: Any, hostname: str, consumer: Any) -> None:
        self._state = State(app=app, hostname=hostname, consumer=consumer, tset=set)

    def carry_out(self, engine: _core.Worker, number: int, method: str, arguments: str) -> None:
        """Carries a command out, and gives the engine its answer."""
        try:
            value = Panel.data[method](self._state, **json.loads(arguments))
            text = json.dumps(value, default=_shown)
        except (WorkerShutdown, WorkerTerminate) as exc:
            how = "cold" if isinstance(exc, WorkerTerminate) else "warm"
            self._state.consumer.controller.stop(how, f"command {method}")
            return
        except Exception as exc:
            logger.error("pidbox command error: %r", exc, exc_info=True)
            text = json.dumps(nok(repr(exc)))
        engine.reply(number, text)


def _shown(value: Any) -> Any:
    """What JSON does not know: sets and tuples as lists, everything else as its text."""
    return list(value) if isinstance(value, (set, frozenset)) else repr(value)


def strtobool(text: Any) -> bool:
    """`yes`, `true`, `on`, `1` and their opposites, in any case."""
    word = str(text).lower()
    if word in {"1", "yes", "true", "on"}:
        return True
    if word in {"", "0", "no", "false", "off"}:
        return False
    raise TypeError(f"cannot read {text!r} as yes or no")


def _by_engine(state: Any, **kwargs: Any) -> Any:
    raise NotImplementedError("the engine answers this command: ask by app.control")


def _known(name: str, type: str, help: str, **kwargs: Any) -> None:
    Panel.register(_by_engine, name=name, type=type, help=help, **kwargs)


_known("report", "inspect", "Versions and settings, for bug reports.")
_known(
    "conf",
    "inspect",
    "Settings, without secrets.",
    alias="dump_conf",
    signature="[include_defaults=False]",
    args=[("with_defaults", strtobool)],
)
_known("query_task", "inspect", "What is known of tasks, by id.", variadic="ids", signature="[id1 [id2 [... [idN]]]]")
_known("clock", "inspect", "The logical clock.")
_known("hello", "inspect", "What workers ask each other when they start.", visible=False)
_known("ping", "inspect", "Who is there.", default_timeout=0.2)
_known("limits", "inspect", "What runs and waits under limits of all workers.")
_known("stats", "inspect", "Counters, pool, connection and use of resources.")
_known("scheduled", "inspect", "Tasks that wait in the worker for their ETA.", alias="dump_schedule")
_known("reserved", "inspect", "Tasks that were taken and have not begun.", alias="dump_reserved")
_known("active", "inspect", "Tasks that run now.", alias="dump_active")
_known("revoked", "inspect", "Ids of revoked tasks.", alias="dump_revoked")
_known(
    "registered",
    "inspect",
    "Names of registered tasks, with attributes.",
    alias="dump_tasks",
    variadic="taskinfoitems",
    signature="[attr1 [attr2 [... [attrN]]]]",
)
_known(
    "objgraph",
    "inspect",
    "A graph of objects, of Celery's workers.",
    default_timeout=60.0,
    args=[("type", str), ("num", int), ("max_depth", int)],
    signature="[object_type=Request] [num=200 [max_depth=10]]",
)
_known("memsample", "inspect", "Resident memory of the worker's own process.")
_known(
    "memdump",
    "inspect",
    "Samples of memory, of Celery's workers.",
    args=[("samples", int)],
    signature="[n_samples=10]",
)
_known("paused", "inspect", "Queues that are paused.")
_known("dead_letters", "inspect", "How many dead letters there are, and how old the oldest is.")
_known("active_queues", "inspect", "Queues that are consumed from.")

_known("revoke", "control", "Do not run tasks, by id.", variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
_known(
    "revoke_by_stamped_headers",
    "control",
    "Do not run tasks, by stamp.",
    variadic="headers",
    signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]",
)
_known(
    "terminate",
    "control",
    "End the processes that run tasks, by id.",
    variadic="task_id",
    args=[("signal", str)],
    signature="<signal> [id1 [id2 [... [idN]]]]",
)
_known(
    "rate_limit",
    "control",
    "Set how often tasks of a name may start.",
    args=[("task_name", str), ("rate_limit", str)],
    signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>",
)
_known(
    "limit",
    "control",
    "Set the limit that tasks of a name have over all workers.",
    args=[("task_name", str), ("global_rate_limit", str), ("max_concurrency", int)],
    signature="<task_name> <global_rate_limit (e.g., 5/s | 5/m | 5/h)> [max_concurrency]",
)
_known(
    "time_limit",
    "control",
    "Set how long tasks of a name may run.",
    args=[("task_name", str), ("soft", float), ("hard", float)],
    signature="<task_name> <soft_secs> [hard_secs]",
)
_known("election", "control", "Elect one of Celery's workers.")
_known("enable_events", "control", "Send events of tasks.")
_known("disable_events", "control", "Send no events of tasks.")
_known("heartbeat", "control", "Send a heartbeat now.")
_known("pool_grow", "control", "Add slots to the pool.", args=[("n", int)], signature="[N=1]")
_known("pool_shrink", "control", "Take slots away from the pool.", args=[("n", int)], signature="[N=1]")
_known("pool_restart", "control", "Replace the processes of the pool.")
_known(
    "autoscale",
    "control",
    "Set the bounds of a pool that scales itself.",
    args=[("max", int), ("min", int)],
    signature="[max [min]]",
)
_known("shutdown", "control", "Stop, warm.")
_known(
    "add_consumer",
    "control",
    "Consume from one more queue.",
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
_known("cancel_consumer", "control", "Do not consume from a queue.", args=[("queue", str)], signature="<queue>")
_known(
    "pause_queue", "control", "Take nothing from a queue, on all workers.", args=[("queue", str)], signature="<queue>"
)
_known("resume_queue", "control", "Take tasks from a paused queue again.", args=[("queue", str)], signature="<queue>")
