"""Middleware: classes with named hooks around the publishing and the running of tasks; which ones a task has, and how
its publish hooks are called. Those around the run are called by `worker/middleware.py` and `app/trace_eager.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from celeriac._state import get_current_worker_task
from celeriac.app import send
from celeriac.app.context import concluded
from celeriac.utils import uuid
from celeriac.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from celeriac.app.base import Celery
    from celeriac.app.context import Context
    from celeriac.app.task import Task

__all__ = ["Call", "Hooks", "Middleware", "Run", "as_middleware", "finish_here", "of"]

logger = logging.getLogger("celery.app.middleware")

PUBLISH_HOOKS = ("before_publish", "after_publish")
TASK_HOOKS = ("before_task", "after_task", "on_retry", "on_failure", "on_dead_letter")


class Middleware:
    """Hooks around the publishing and the running of tasks. A subclass has those that it needs; each may be `async def`.

    `before_...` is called in the order in which middleware was added, the app's first; all others in the reverse order.
    A `before_...` that raises stops what it stands before: the call is refused, or the task fails. What another hook
    raises is logged, and changes nothing.

    Example:
        >>> class Timing(Middleware):
        ...     def before_task(self, run: Run) -> None:
        ...         run.data["began"] = time.monotonic()
        ...
        ...     def after_task(self, run: Run) -> None:
        ...         print(run.task.name, run.state, time.monotonic() - run.data["began"])
        >>> app.add_middleware(Timing())
    """

    def before_publish(self, call: Call) -> Any:
        """A call is about to be sent: `call.args`, `kwargs`, `options` and `headers` may be changed."""

    def after_publish(self, call: Call, exception: BaseException | None) -> Any:
        """It was accepted by the broker, or (with the exception) not. Inside a task: handed to the task's outcome."""

    def before_task(self, run: Run) -> Any:
        """A task is about to run. May raise what a task may raise: `Ignore`, `Reject` and `Retry`, too."""

    def after_task(self, run: Run) -> Any:
        """It has ended, however it did: see `run.state`, `run.result` and `run.exception`."""

    def on_retry(self, run: Run, exception: BaseException) -> Any:
        """It will be tried again; the exception is the reason. `after_task` follows."""

    def on_failure(self, run: Run, exception: BaseException) -> Any:
        """It has failed for good. `after_task` follows where `before_task` was called: a task whose process was killed
        at its time limit, or was lost, is told of here alone, by another process."""

    def on_dead_letter(self, run: Run, exception: BaseException) -> Any:
        """Its message becomes a dead letter as it ends: rejected, or failed with `acks_on_failure` off."""


class Call:
    """A call on its way to the broker."""

    def __init__(
        self, app: Celery, task: Task[..., Any] | None, name: str, args: Any, kwargs: Any, options: dict[str, Any]
    ) -> None:
        self.app = app
        #: None when it is called by name.
        self.task = task
        self.name = name
        self.args = args
        self.kwargs = kwargs
        #: Those of `apply_async`.
        self.options = options
        self._id: str = options.setdefault("task_id", uuid())
        # The caller's own are not changed.
        self._headers: dict[str, Any] = dict(options.get("headers") or {})
        options["headers"] = self._headers
        #: Members of the header that is celeriac's own, for middleware that needs a place of its own there.
        self.members: dict[str, Any] = {}
        #: For the middleware's own use, from `before_publish` to `after_publish`.
        self.data: dict[Any, Any] = {}
        #: What is sent, with `headers` and `publication`; None until it is made.
        self.message: send.Message | None = None
        #: How many of the hooks have begun.
        self.begun = 0

    @property
    def id(self) -> str:
        """The task's id."""
        # Options are used up when the message is made.
        task_id: str = self.options.get("task_id", self._id) if self.message is None else self.message.id
        return task_id

    @property
    def headers(self) -> dict[str, Any]:
        """Headers of the message beside Celery's own: attributes of `task.request`, and kept by retries. After the call
        was published: all headers, not to be changed any more."""
        headers: dict[str, Any] = self.options.get("headers", self._headers)
        return headers if self.message is None else self.message.headers

    @property
    def cause(self) -> Context | None:
        """The request that sends it, or that it follows from (as a chord's body does from the last part); None: a client's."""
        parent = get_current_worker_task()
        return concluded.get() if parent is None else parent.request

    @property
    def exchange(self) -> str | None:
        """Where it goes; None until the message is made."""
        return None if self.message is None else self.message.publication.exchange

    @property
    def routing_key(self) -> str | None:
        """The routing key; the queue's name where the exchange is the default one. None until the message is made."""
        return None if self.message is None else self.message.publication.routing_key

    def __repr__(self) -> str:
        return f"<Call of {self.name}[{self.id}]>"


class Run:
    """A request that a worker runs."""

    __slots__ = ("app", "begun", "data", "exception", "request", "result", "state", "task")

    def __init__(self, app: Celery, task: Task[..., Any], request: Context) -> None:
        self.app = app
        self.task = task
        self.request = request
        #: `STARTED`, and then how it ended: `SUCCESS`, `RETRY`, `FAILURE`, `IGNORED` or `REJECTED`.
        self.state = "STARTED"
        #: What the task has returned.
        self.result: Any = None
        #: What it has raised.
        self.exception: BaseException | None = None
        #: For the middleware's own use, from one hook to the next.
        self.data: dict[Any, Any] = {}
        #: How many of the hooks have begun.
        self.begun = 0

    @property
    def id(self) -> str:
        """The task's id."""
        return self.request.id or ""

    @property
    def args(self) -> Any:
        """Positional arguments."""
        return self.request.args

    @property
    def kwargs(self) -> Any:
        """Keyword arguments."""
        return self.request.kwargs

    def __repr__(self) -> str:
        return f"<Run of {self.task.name}[{self.id}]: {self.state}>"


#: Waits for what an `async def` hook has returned.
Finish = Any


class Hooks:
    """The middleware of one task, in order."""

    def __init__(self, members: Sequence[Middleware]) -> None:
        self._publish = [one for one in members if _has(one, PUBLISH_HOOKS)]
        self._task = [one for one in members if _has(one, TASK_HOOKS)]
        #: Whether there is anything to do when a call is published.
        self.publishes = bool(self._publish)
        #: Whether there is anything to do around a run.
        self.runs = bool(self._task)
        #: Whether hooks around a run have to be awaited.
        self.awaits = any(_is_async(one, name) for one in self._task for name in TASK_HOOKS)

    # -- publishing

    def compose(
        self,
        app: Celery,
        name: str,
        args: Any,
        kwargs: Any,
        task: Task[..., Any] | None,
        options: dict[str, Any],
        make: Callable[..., send.Message],
    ) -> send.Message:
        """The message of a call, by `make`, with `before_publish` of all before it.

        Raises:
            Exception: What a hook has raised: the call is refused.
        """
        call = Call(app, task, name, args, kwargs, options)
        try:
            for one in self._publish:
                finish_here(one.before_publish(call))
                call.begun += 1
            return self._made(call, make)
        except BaseException as exc:
            self.published(call, exc)
            raise

    async def acompose(
        self,
        app: Celery,
        name: str,
        args: Any,
        kwargs: Any,
        task: Task[..., Any] | None,
        options: dict[str, Any],
        make: Callable[..., send.Message],
    ) -> send.Message:
        """The same for a coroutine."""
        call = Call(app, task, name, args, kwargs, options)
        try:
            for one in self._publish:
                value = one.before_publish(call)
                if type(value) is CoroutineType:
                    await value
                call.begun += 1
            return self._made(call, make)
        except BaseException as exc:
            await self.apublished(call, exc)
            raise

    def _made(self, call: Call, make: Callable[..., send.Message]) -> send.Message:
        call.message = send.HookedMessage(
            make(call.app, call.name, call.args, call.kwargs, call.task, call.options, call.members), self, call
        )
        return call.message

    def published(self, call: Call, exception: BaseException | None) -> None:
        """What follows the attempt to publish a call."""
        for one in reversed(self._publish[: call.begun]):
            _safely("after_publish", call, finish_here, one.after_publish, call, exception)
        call.begun = 0

    async def apublished(self, call: Call, exception: BaseException | None) -> None:
        """The same for a coroutine."""
        for one in reversed(self._publish[: call.begun]):
            await _asafely("after_publish", call, one.after_publish, call, exception)
        call.begun = 0

    # -- running

    def begin(self, run: Run, finish: Finish) -> None:
        """What comes before a task.

        Args:
            run: The request that runs.
            finish: Runs what an `async def` hook has returned.

        Raises:
            Exception: What a hook has raised: the task fails.
        """
        for one in self._task:
            value = one.before_task(run)
            if type(value) is CoroutineType:
                finish(value)
            run.begun += 1

    async def abegin(self, run: Run) -> None:
        """The same on a loop."""
        for one in self._task:
            value = one.before_task(run)
            if type(value) is CoroutineType:
                await value
            run.begun += 1

    def end(self, run: Run, *, dead: bool, finish: Finish) -> None:
        """What comes after it.

        Args:
            run: With its state, result and exception.
            dead: Its message becomes a dead letter.
            finish: Runs what an `async def` hook has returned.
        """

        def done(value: Any) -> None:
            if type(value) is CoroutineType:
                finish(value)

        for name, one, given in self._after(run, dead):
            _safely(name, run, done, getattr(one, name), run, *given)
        run.begun = 0

    async def aend(self, run: Run, *, dead: bool) -> None:
        """The same on a loop."""
        for name, one, given in self._after(run, dead):
            await _asafely(name, run, getattr(one, name), run, *given)
        run.begun = 0

    def _after(self, run: Run, dead: bool) -> Iterable[tuple[str, Middleware, tuple[Any, ...]]]:
        begun = self._task[: run.begun][::-1]
        names = {"RETRY": ["on_retry"], "FAILURE": ["on_failure"]}.get(run.state, [])
        if dead:
            names = [*names, "on_dead_letter"]
        for name in names:
            reason = run.exception
            if name == "on_retry":
                reason = getattr(reason, "exc", None) or reason
            yield from ((name, one, (reason,)) for one in begun)
        yield from (("after_task", one, ()) for one in begun)

    def failed(self, run: Run) -> None:
        """A task that did not end by itself has failed: its process was killed or lost."""
        for one in reversed(self._task):
            _safely("on_failure", run, finish_here, one.on_failure, run, run.exception)


def of(app: Celery, task: Task[..., Any] | None) -> Hooks | None:
    """The middleware of a task, or of calls of a name that nobody here knows; None without any.

    Raises:
        ImproperlyConfigured: `task_middleware` names what is none.
    """
    mine = () if task is None else getattr(task, "middleware", ())
    if not (app._middleware or app.conf.values_now()["task_middleware"] or mine):
        return None
    held: _Held | None = app._hooks
    if held is None or held.generation != app.conf._generation:
        held = app._hooks = _Held(app, held)
    key = None if task is None else task.name
    hooks = held.known.get(key)
    if hooks is None:
        hooks = held.known[key] = Hooks((*held.named, *app._middleware, *as_middleware(mine)))
    return hooks


class _Held:
    """What was found out of an app's middleware; replaced as a whole when settings change."""

    def __init__(self, app: Celery, old: _Held | None) -> None:
        self.generation = app.conf._generation
        self.setting = app.conf.values_now()["task_middleware"]
        # Made once, whatever other settings change: it may keep something.
        same = old is not None and old.setting == self.setting
        self.named: tuple[Middleware, ...] = (
            old.named if same and old is not None else as_middleware(self.setting or ())
        )
        #: By task name; None: of calls of names that are not known here.
        self.known: dict[str | None, Hooks] = {}


def as_middleware(given: Any) -> tuple[Middleware, ...]:
    """What was named as middleware: instances, classes, or their dotted names; one, or several.

    Raises:
        TypeError: It is no middleware.
    """
    if isinstance(given, (list, tuple)):
        return tuple(one for item in given for one in as_middleware(item))
    found = symbol_by_name(given) if isinstance(given, str) else given
    if isinstance(found, type) and issubclass(found, Middleware):
        found = found()
    if not isinstance(found, Middleware):
        raise TypeError(
            f"{given!r} is no middleware: name an instance, or a class that can be made without arguments, of a subclass "
            "of celeriac.middleware.Middleware"
        )
    return (found,)


def finish_here(value: Any) -> None:
    """Waits for what an `async def` hook has returned, in a program that has no loop for it, or whose loop is busy
    with this very call: a loop of its own, kept for the next one, in a thread of its own.
    """
    if type(value) is not CoroutineType:
        return
    from celeriac.app import background_loop

    background_loop.run(value)


def _has(one: Middleware, names: Iterable[str]) -> bool:
    return any(getattr(type(one), name) is not getattr(Middleware, name) or name in vars(one) for name in names)


def _is_async(one: Middleware, name: str) -> bool:
    from inspect import iscoroutinefunction

    return iscoroutinefunction(getattr(one, name))


def _safely(name: str, about: Call | Run, done: Callable[[Any], None], hook: Callable[..., Any], *given: Any) -> None:
    try:
        done(hook(*given))
    except Exception as exc:
        _log(name, about, hook, exc)


async def _asafely(name: str, about: Call | Run, hook: Callable[..., Any], *given: Any) -> None:
    try:
        value: Coroutine[Any, Any, Any] | None = hook(*given)
        if type(value) is CoroutineType:
            await value
    except Exception as exc:
        _log(name, about, hook, exc)


def _log(name: str, about: Call | Run, hook: Callable[..., Any], exc: Exception) -> None:
    owner = type(getattr(hook, "__self__", None)).__name__
    logger.error("Hook %s of middleware %s raised at %r: %r", name, owner, about, exc, exc_info=exc)
