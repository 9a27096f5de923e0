"""`Task`: a registered function and its options; how it is called here, sent away and tried again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NoReturn, ParamSpec, Self, TypeVar, cast, overload

from celeriac._state import get_current_app, pop_current_task, push_current_task
from celeriac.app import own, send
from celeriac.app.arguments import header_of
from celeriac.app.context import Context, RequestStack
from celeriac.exceptions import ImproperlyConfigured, MaxRetriesExceededError, OperationalError, Reject, Retry

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from celeriac.app import templates
    from celeriac.app.base import Celery
    from celeriac.app.batches import Batch
    from celeriac.canvas.signature import Signature
    from celeriac.result.async_result import AsyncResult
    from celeriac.result.eager import EagerResult

__all__ = ["Context", "Task"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")

#: Attribute -> setting that gives its value where the task itself does not.
FROM_SETTINGS = {
    "acks_late": "task_acks_late",
    "acks_on_failure": "task_acks_on_failure",
    "acks_on_failure_or_timeout": "task_acks_on_failure_or_timeout",
    "acks_on_timeout": "task_acks_on_timeout",
    "ignore_result": "task_ignore_result",
    "priority": "task_default_priority",
    "rate_limit": "task_default_rate_limit",
    "reject_on_worker_lost": "task_reject_on_worker_lost",
    "retry_on_worker_lost": "task_retry_on_worker_lost",
    "serializer": "task_serializer",
    "store_eager_result": "task_store_eager_result",
    "store_errors_even_if_ignored": "task_store_errors_even_if_ignored",
    "track_started": "task_track_started",
}


class Task(Generic[P, R]):
    """A task. Made by the `task` decorator, or by subclassing and `app.register_task`.

    Options are attributes; those that are None take the value of their setting when the app is finalised.
    """

    MaxRetriesExceededError = MaxRetriesExceededError
    OperationalError = OperationalError

    app: Celery = None  # type: ignore[assignment]
    #: Full name; `<module>.<function>` unless given.
    name: str = None  # type: ignore[assignment]
    abstract = True
    #: Check arguments when the task is called; None: as the app says.
    typing: bool | None = None
    max_retries: int | None = 3
    #: Seconds.
    default_retry_delay: float = 180
    autoretry_for: Iterable[type[BaseException]] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_kwargs: dict[str, Any] | None = None
    retry_backoff: bool | float = False
    retry_backoff_max: int = 600
    retry_jitter: bool = True
    override_max_retries: int | None = None
    #: Exceptions that are expected: logged without a traceback, still a failure.
    throws: tuple[type[BaseException], ...] = ()
    #: `N`, `N/s`, `N/m` or `N/h`.
    rate_limit: str | float | None = None
    #: The same, over all workers: never more start in any second, minute or hour.
    global_rate_limit: str | float | None = None
    #: So many run at the same time, over all workers.
    max_concurrency: int | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    ignore_result: bool | None = None
    store_errors_even_if_ignored: bool | None = None
    store_eager_result: bool | None = None
    serializer: str | None = None
    compression: str | None = None
    acks_late: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    retry_on_worker_lost: bool | None = None
    track_started: bool | None = None
    send_events = True
    trail = True
    resultrepr_maxsize = 1024
    priority: int | None = None
    queue: str | None = None
    exchange: str | None = None
    exchange_type: str | None = None
    routing_key: str | None = None
    delivery_mode: int | str | None = None
    expires: float | datetime | None = None
    #: It gets many calls at once, as a list of `BatchRequest`.
    batch: Batch | None = None

    #: Ours: it becomes a dead letter when it fails for good; None is what its queue or `task_dead_letter` says.
    dead_letter: bool | None = None
    #: Ours: so many results of it are kept, the newest, of those that succeeded and of those that failed.
    keep_successes: int | None = None
    keep_failures: int | None = None
    #: Ours: seconds that its results are kept, instead of what `result_expires` says; 0 is for ever.
    result_expires: float | timedelta | None = None

    #: Middleware of this task, inside of the app's: as for `app.add_middleware`.
    middleware: Sequence[Any] = ()
    #: Options of `celeriac.app.own` that it has; known when the app is finalised.
    _own: Mapping[str, Any] = own.NONE

    __header__: Callable[..., None] | None = None
    # Written and read by senders; any of them may win.
    _template: templates.Held | None = None
    _template_values: tuple[Any, ...] | None = None

    #: What `celery.app.trace.trace_task` keeps here.
    __trace__: Callable[..., Any] | None = None
    request_stack: RequestStack
    _default_request: Context | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Not in `__init__`, which subclasses replace without calling it.
        task = super().__new__(cls)
        task.request_stack = RequestStack()
        task._default_request = None
        return task

    # -- belonging to an app

    def bind(self, app: Celery) -> None:
        """Joins the task to its app: fills what is not set from the settings. Runs when the app is finalised.

        Raises:
            ImproperlyConfigured: It has a result backend of its own.
        """
        self.app = app
        backend: Any = vars(type(self)).get("backend")
        if backend is not None:
            raise ImproperlyConfigured(
                f"task {self.name} has a result backend of its own ({backend!r}), which is not supported: the results of an "
                "app are in one place, which result_backend names"
            )
        conf = app.conf
        for attribute, setting in FROM_SETTINGS.items():
            if getattr(self, attribute) is None:
                setattr(self, attribute, conf[setting])
        if self.batch is not None:
            # What a call is given goes into a request, not into the function.
            self.typing = False
        if self.typing is None:
            self.typing = app.strict_typing
        if self.__header__ is None:
            self.__header__ = header_of(self.run)
        from celeriac.app.autoretry import add_autoretry_behaviour

        if self.batch is None:
            add_autoretry_behaviour(self)
        self.annotate()
        self._own = own.of_task(self)
        self.on_bound(app)

    @property
    def backend(self) -> Any:
        """The app's result backend, as an object."""
        return self._get_app().backend

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Called when the task has got its app."""

    def annotate(self) -> None:
        """Applies `task_annotations`."""
        annotations = self.app.conf.task_annotations
        if not annotations:
            return
        for annotation in annotations if isinstance(annotations, (list, tuple)) else [annotations]:
            if isinstance(annotation, Mapping):
                found = {**(annotation.get("*") or {}), **(annotation.get(self.name) or {})}
            else:
                found = {**(annotation.annotate_any() or {}), **(annotation.annotate(self) or {})}
            for attribute, value in found.items():
                setattr(self, attribute, value)

    def _get_app(self) -> Celery:
        app = self.app
        if app is None:
            app = get_current_app()
            self.app = app
        if not app.finalized:
            app.finalize(auto=True)
        return app

    # -- running here

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What the task does."""
        raise NotImplementedError("Tasks must define the run method.")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the task here and now, as a plain function with a request of its own."""
        if type(self).__call__ is not _own_call:
            running = self.request_stack.top
            if running is not None and not (running.called_directly or running._protected):
                # A class's own `__call__` calls this one from within a request: it is that request's run.
                running._protected = True
                return cast("R", self.run(*args, **kwargs))
        request = Context(args=args, kwargs=kwargs)
        push_current_task(self)
        self.request_stack.push(request)
        try:
            value = self.run(*args, **kwargs)
        finally:
            self.request_stack.pop()
            pop_current_task()
        return cast("R", self._call_async(value, request) if isinstance(value, CoroutineType) else value)

    async def _call_async(self, coroutine: CoroutineType[Any, Any, R], request: Context) -> R:
        """A direct call of an `async def`, which runs only when it is awaited."""
        push_current_task(self)
        self.request_stack.push(request)
        try:
            return await coroutine
        finally:
            self.request_stack.pop()
            pop_current_task()

    @property
    def request(self) -> Context:
        """The call that runs here."""
        top = self.request_stack.top
        if top is not None:
            return top
        if self._default_request is None:
            self._default_request = Context()
        return self._default_request

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """A request begins here."""
        self.request_stack.push(Context(*args, **kwargs))

    def pop_request(self) -> Context | None:
        """It ends."""
        return self.request_stack.pop()

    # -- sending

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Sends the task with these arguments."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Sends the task.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            task_id: Its id; made up unless given.
            producer: Where the message goes instead of the broker: a `Composition`; all else is ignored.
            link: Signatures to send with the result.
            link_error: Signatures to call when it fails.
            shadow: Another name for logs.
            **options: countdown, eta, expires, queue, exchange, routing_key, priority, time_limit,
                soft_time_limit, ignore_result, headers, retry, retry_policy, serializer, compression and more.

        Raises:
            OperationalError: The broker does not take it.
            EncodeError: An argument cannot be encoded.
            TypeError: The arguments do not fit the task.
        """
        app = self._get_app()
        self._prepare(args, kwargs, task_id, link, link_error, shadow, options)
        if app.conf.values_now()["task_always_eager"]:
            return self._apply_always_eager(args, kwargs, options)
        cls = type(app)
        if cls.send_task is not cls._own_send_task:
            # A subclass, or a library that has put something around it: it goes that way, as with Celery.
            sent = app.send_task(self.name, args, kwargs, producer=producer, task_type=self, **options)
            return cast("AsyncResult[R]", sent)
        message = send.compose(app, self.name, args, kwargs, self, options)
        if producer is not None and hasattr(producer, "collect"):
            # Part of a workflow, which is sent as a whole.
            return cast("AsyncResult[R]", producer.collect(message, options))
        send.publish(app, message, options)
        return cast("AsyncResult[R]", app._sent(message, options))

    def delay_many(self, calls: Iterable[Sequence[Any] | Mapping[str, Any]]) -> list[AsyncResult[R]]:
        """Sends many calls in few round trips: some 1,000 messages in each. For calls with options: `app.send_many`.

        Example:
            >>> results = resize.delay_many((name, 300) for name in names)

        Args:
            calls: Each a tuple of positional arguments, or a dict of keyword arguments.

        Raises:
            OperationalError: The broker did not take all; its `sent` has the results of those that were sent before.
            EncodeError: An argument cannot be encoded.
            TypeError: Arguments do not fit the task.
        """
        from celeriac.app import batch

        app = self._get_app()
        if app.conf.values_now()["task_always_eager"]:
            return [self.apply_async(*batch.read_call(call)) for call in calls]
        return batch.send_all(app, batch.of_calls(app, self, calls))

    async def adelay_many(self, calls: Iterable[Sequence[Any] | Mapping[str, Any]]) -> list[AsyncResult[R]]:
        """`delay_many` for coroutines."""
        from celeriac.app import batch

        app = self._get_app()
        if app.conf.values_now()["task_always_eager"]:
            return [self.apply_async(*batch.read_call(call)) for call in calls]
        return await batch.send_all_later(app, batch.of_calls(app, self, calls))

    def delay_on_commit(self, session: Any, *args: Any, **kwargs: Any) -> Any:
        """`delay`, once the transaction of a session of SQLAlchemy's is committed; never if it is rolled back.

        A process that dies between the two has lost it: `celeriac.outbox(session)` loses nothing, and needs a table.

        Example:
            >>> session.add(order)
            ... bill.delay_on_commit(session, order.number)

        Args:
            session: A `Session`, a `scoped_session` or an `AsyncSession`.
            *args: Positional arguments.
            **kwargs: Keyword arguments.

        Returns:
            Its result, though it is not sent yet.
        """
        return self.apply_async_on_commit(session, args, kwargs)

    def apply_async_on_commit(
        self,
        session: Any,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """`apply_async`, likewise."""
        from celeriac.app.outbox.session import send_on_commit

        return send_on_commit(self._get_app(), session, lambda: self.apply_async(args, kwargs, **options))

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay` for coroutines: returns when the broker has the message, without blocking the loop."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """`apply_async` for coroutines."""
        app = self._get_app()
        self._prepare(args, kwargs, task_id, link, link_error, shadow, options)
        if app.conf.values_now()["task_always_eager"]:
            return self._apply_always_eager(args, kwargs, options)
        message = await send.compose_later(app, self.name, args, kwargs, self, options)
        await send.publish_later(app, message, options)
        return cast("AsyncResult[R]", app._sent(message, options))

    def _prepare(
        self, args: Any, kwargs: Any, task_id: Any, link: Any, link_error: Any, shadow: Any, options: dict[str, Any]
    ) -> None:
        """Checks arguments and gathers the options of one call."""
        if self.typing and self.__header__ is not None:
            self.__header__(*(args or ()), **(kwargs or {}))
        if task_id is not None:
            options["task_id"] = task_id
        if link:
            options["link"] = link
        if link_error:
            options["link_error"] = link_error
        shadow = shadow or self.shadow_name(args, kwargs, options)
        if shadow:
            options["shadow"] = shadow

    def _apply_always_eager(self, args: Any, kwargs: Any, options: dict[str, Any]) -> AsyncResult[R]:
        from celeriac.app.trace_eager import apply_always_eager

        return cast("AsyncResult[R]", apply_always_eager(self, args or (), kwargs or {}, options))

    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int | None = None,
        throw: bool | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Runs the task here as a worker would, with retries and hooks.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            link: Signatures to run with the result.
            link_error: Signatures to run when it fails.
            task_id: Its id.
            retries: Tries that there have been before.
            throw: Raise what the task raises; as `task_eager_propagates` says unless given.
            **options: What else the request knows.
        """
        from celeriac.app.trace_eager import run_eagerly

        self._get_app()
        if link:
            options["link"] = link
        if link_error:
            options["link_error"] = link_error
        return run_eagerly(self, tuple(args or ()), dict(kwargs or {}), task_id, retries or 0, throw, options)

    def shadow_name(self, args: Any, kwargs: Any, options: dict[str, Any]) -> str | None:
        """Another name for logs and monitors, for one call."""
        return None

    # -- trying again

    def retry(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Any:
        """Sends this call again, later, under the same id.

        Example:
            >>> raise self.retry(exc=exc, countdown=10)

        Args:
            args: Other positional arguments.
            kwargs: Other keyword arguments.
            exc: Why; raised when there have been too many tries.
            throw: Raise `Retry`; otherwise it is returned and the task goes on.
            eta: When.
            countdown: In how many seconds; `default_retry_delay` unless given.
            max_retries: Instead of the task's own limit.
            **options: More options of `apply_async`.

        Raises:
            Retry: Always, unless `throw` is off.
            MaxRetriesExceededError: There have been too many tries and no `exc` is known.
        """
        request = self.request
        retries = request.retries + 1
        if max_retries is not None:
            self.override_max_retries = max_retries
        limit = self.max_retries if max_retries is None else max_retries
        if request.called_directly:
            _raise(exc or Retry("Task can be retried", None))
        if not eta and countdown is None:
            countdown = self.default_retry_delay
        again = self.signature_from_request(
            request, args, kwargs, countdown=countdown, eta=eta, retries=retries, **options
        )
        if limit is not None and retries > limit:
            exc = exc or sys.exc_info()[1]
            if exc is not None:
                _raise(exc)
            raise self.MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{again.args} kwargs:{again.kwargs}",
                task_args=again.args,
                task_kwargs=again.kwargs,
            )
        ret = Retry(exc=exc or sys.exc_info()[1], when=eta or countdown, is_eager=request.is_eager, sig=again)
        if not request.is_eager:
            try:
                self._send_again(request, again)
            except Exception as error:
                raise Reject(error, requeue=False) from error
        if throw:
            raise ret
        return ret

    def _send_again(self, request: Context, again: Signature[R]) -> None:
        if request._follow_ups is None:
            again.apply_async()
        else:
            # Another `apply_async` than this class's has a say in what is sent.
            own = type(self).apply_async is _own_apply_async
            for message in [again.compose()] if own else again.compose_all().messages:
                request._follow_ups.append(message.publication)
                send._published(message)

    # -- changing the workflow it is in

    def replace(self, sig: Signature[Any]) -> Any:
        """Puts another signature in the place of this call: it takes over its id, its links, and what follows it.

        The call ends here, without a result of its own. A group gets a task that gathers its results.

        Example:
            >>> return self.replace(group(part.s(i) for i in range(n)))

        Args:
            sig: What runs instead.

        Raises:
            Ignore: Always, unless the task runs eagerly or was simply called.
            ImproperlyConfigured: The signature is a part of a chord, or an empty chain.
        """
        from celeriac.app.replacing import replacement

        return self.on_replace(replacement(self, sig))

    def on_replace(self, sig: Signature[Any]) -> Any:
        """Sends what replaces this call; overrides end with `super().on_replace(sig)`."""
        from celeriac.app.replacing import replace_by

        return replace_by(self, sig)

    def add_to_chord(self, sig: Signature[Any], lazy: bool = False) -> Any:
        """Adds a signature to the header that this call is in: the body waits for it too.

        Args:
            sig: What to add.
            lazy: Do not send it; the caller will.

        Raises:
            ValueError: This call is in no header.
        """
        from celeriac.app.replacing import add_to_chord

        return add_to_chord(self, sig, lazy=lazy)

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        **extra_options: Any,
    ) -> Signature[R]:
        """A signature that makes the call of a request again."""
        request = request or self.request
        options = {**request.as_execution_options(), **request.way_back(queue), **extra_options}
        return self.signature(
            request.args if args is None else args, request.kwargs if kwargs is None else kwargs, options
        )

    subtask_from_request = signature_from_request

    # -- signatures

    # What a chain, a link or a call adds comes first: a signature may lack up to three leading arguments.
    @overload
    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]: ...
    @overload
    def s(self: Task[Concatenate[Any, Q], R], *args: Q.args, **kwargs: Q.kwargs) -> Signature[R]: ...
    @overload
    def s(self: Task[Concatenate[Any, Any, Q], R], *args: Q.args, **kwargs: Q.kwargs) -> Signature[R]: ...
    @overload
    def s(self: Task[Concatenate[Any, Any, Any, Q], R], *args: Q.args, **kwargs: Q.kwargs) -> Signature[R]: ...
    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """A signature with these arguments; those that come first may be missing."""
        return self.signature(args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """An immutable signature: it does not take the result of the task before it."""
        return self.signature(args, kwargs, immutable=True)

    def signature(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, *starargs: Any, **extra: Any
    ) -> Signature[R]:
        """A signature: a call not yet made. Third comes a mapping of `apply_async` options."""
        from celeriac.canvas.signature import Signature

        options = starargs[0] if starargs else extra.pop("options", None)
        extra.setdefault("app", self.app)
        return Signature(self, args, kwargs, options, **extra)

    subtask = signature

    def map(self, it: Iterable[Any]) -> Any:
        """A signature of `[self(item) for item in it]`, run in one message."""
        from celeriac.canvas.chunks import xmap

        return xmap(self.signature(), it, app=self.app)

    def starmap(self, it: Iterable[Any]) -> Any:
        """A signature of `[self(*item) for item in it]`, run in one message."""
        from celeriac.canvas.chunks import xstarmap

        return xstarmap(self.signature(), it, app=self.app)

    def chunks(self, it: Iterable[Any], n: int) -> Any:
        """A signature of many calls in messages of `n` calls each."""
        from celeriac.canvas.chunks import chunks

        return chunks(self.signature(), it, n, app=self.app)

    # -- results

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult[R]:
        """The result of a task id."""
        return cast("AsyncResult[R]", self._get_app().AsyncResult(task_id, task_name=self.name, **kwargs))

    def send_event(
        self, type_: str, retry: bool = True, retry_policy: dict[str, Any] | None = None, **fields: Any
    ) -> None:
        """Sends an event of the app's own to monitors, with this task's id.

        Args:
            type_: Its type, such as `task-progress`.
            retry: Accepted for compatibility: the client tries for a while in any case.
            retry_policy: As above.
            **fields: What it says; must be possible to serialize.

        Raises:
            OperationalError: The broker did not take it.
        """
        request = self.request
        with self.app.events.default_dispatcher(hostname=request.hostname) as dispatcher:
            dispatcher.send(type_, uuid=request.id, **fields)

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Stores a state of the task's own, such as progress.

        Args:
            task_id: The running one unless given.
            state: Any text.
            meta: What `result.info` gives; must be encodable.
            **kwargs: Accepted for compatibility.
        """
        app, request = self._get_app(), self.request
        if not app.results_enabled or (task_id or request.id) is None:
            return
        if task_id is None or task_id == request.id:
            self._store_state(request, state or "", meta)
        elif app.has_own_backend:
            app.backend.store_result(task_id, meta, state or "")
        else:
            from celeriac.result.record import build_record

            app.client.store([build_record(app, task_id, state or "", meta)])

    def progress(self, done: float, total: float | None = None, message: str | None = None, **more: Any) -> None:
        """Tells how far the running task is: state PROGRESS, with what is told as its meta.

        May be called in a tight loop: no more than `task_progress_rate` a second are stored (5; 0 stores each), and the
        newest always, when nothing newer comes: only the end of the task makes it pointless. Tells nothing where nobody
        could read it: outside a worker, and when the result is ignored.

        Args:
            done: How much is done.
            total: Of how much; None: not known.
            message: What is being done, for people.
            **more: Anything that can be encoded.

        Raises:
            EncodeError: The result serializer refuses it.

        Example:
            >>> @app.task(bind=True)
            ... def scale(self, names: list[str]) -> None:
            ...     for number, name in enumerate(names, 1):
            ...         self.progress(number, len(names), name)
        """
        request = self.request
        meter = request._meter
        if meter is None:
            from celeriac.app.progress import meter_of

            meter = meter_of(self, request)
            if meter is None:
                return
        meter.tell((done, total, message, more))

    def _store_state(self, request: Context, state: str, meta: Any) -> None:
        """Stores a state of a request that runs here."""
        from celeriac.result.record import build_record

        app, task_id = self._get_app(), request.id or ""
        if app.has_own_backend:
            app.backend.store_result(task_id, meta, state, request=request)
            return
        record = build_record(app, task_id, state, meta, request=request)
        hook = app._child_update
        if hook is not None and request._tag is not None:
            hook(request._tag, record)
        else:
            app.client.store([record])

    def checkpoint(self, state: Any, *, flush: bool = False) -> None:
        """Keeps where the task is, so that the next run of this very call goes on from there: see `last_checkpoint`.

        Written twice a second at the most, and before a retry; a killed process loses what was not. Removed when the
        task has ended. Kept in the result backend for `checkpoint_expires`.

        Args:
            state: Anything that can be written as JSON, up to 1 MiB.
            flush: Write it now.

        Raises:
            ImproperlyConfigured: There is no result backend that keeps values.
            OperationalError: It does not answer.
            EncodeError: The state cannot be written as JSON.
            ValueError: It is too large.
        """
        from celeriac.app.checkpoints import of_request

        of_request(self._get_app(), self.request).save(state, flush=flush)

    def last_checkpoint(self, default: Any = None) -> Any:
        """What `checkpoint` kept last for this call, in this run or one before.

        Example:
            >>> for step in range(self.last_checkpoint(0), 20):
            ...     work(step)
            ...     self.checkpoint(step + 1, flush=True)

        Args:
            default: What there is if nothing was kept.

        Raises:
            ImproperlyConfigured: There is no result backend that keeps values.
            OperationalError: It does not answer.
        """
        from celeriac.app.checkpoints import of_request

        return of_request(self._get_app(), self.request).last(default)

    def add_trail(self, result: Any) -> Any:
        """Records a child."""
        if self.trail:
            self.request.children.append(result)
        return result

    # -- hooks

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called before the task runs."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called when it has succeeded."""

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when it will be tried again."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when it has failed."""

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when it has ended, with a result or a failure."""

    def __reduce__(self) -> Any:
        return _unpickle, (self.name,)

    def __repr__(self) -> str:
        if not self.name:
            return f"<unnamed {type(self).__name__}>"
        app = "" if self.app is None else f" of {self.app.main or '__main__'} at {id(self.app):#x}"
        return f"<@task: {self.name}{app}>"


# As they are here: libraries replace them in the class.
_own_call = Task.__call__
_own_apply_async = Task.apply_async


#: Other names that code written for Celery uses.
BaseTask = Task
TaskType = type


def entry_point(task: Task[..., Any]) -> Callable[..., Any]:
    """What a worker calls: `run`, or the class's own `__call__` (such as one that enters a Flask context)."""
    return task.run if type(task).__call__ is _own_call else task.__call__


def _raise(exc: BaseException) -> NoReturn:
    """Raises `exc`; with what is being handled as its context, and its own traceback if it is that itself."""
    raise exc


def _unpickle(name: str) -> Any:
    return get_current_app().tasks[name]
