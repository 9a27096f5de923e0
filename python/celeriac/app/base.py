"""`Celery`: the application. Holds settings, tasks and the engine's client, and delegates the rest."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from celeriac import _state as current
from celeriac._dispatch import Signal
from celeriac.app import send, stores
from celeriac.app.builtins import add_builtin_tasks
from celeriac.app.engine import Engine
from celeriac.app.registry import TaskRegistry
from celeriac.app.routes import Router
from celeriac.app.service_events import ServiceEvents
from celeriac.app.settings import PendingConfiguration, Settings
from celeriac.app.task import Task
from celeriac.exceptions import AlwaysEagerIgnored, ImproperlyConfigured
from celeriac.result.async_result import AsyncResult
from celeriac.utils.imports import gen_task_name, symbol_by_name
from celeriac.utils.time import zone

if TYPE_CHECKING:
    from celeriac._core import Client, ResultRecord
    from celeriac.app.amqp import AMQP
    from celeriac.app.backends import Backends
    from celeriac.app.connection import Connection
    from celeriac.app.control import Control
    from celeriac.app.dead_letters import DeadLetters
    from celeriac.app.decorators import TaskDecorator
    from celeriac.app.events import Events
    from celeriac.app.http_tasks import HttpTask
    from celeriac.app.large import LargePayloads
    from celeriac.app.locks import Lock
    from celeriac.app.log import Logging
    from celeriac.app.middleware import Middleware
    from celeriac.app.periodic import Schedules
    from celeriac.canvas.composition import Composition
    from celeriac.canvas.signature import Signature
    from celeriac.result.result_set import GroupResult, ResultSet
    from celeriac.utils.clocks import LamportClock

    # `Celery.Task` hides the class in the annotations below it, and so do the others of a class's name.
    AnyTask = Task[..., Any]
    SetClass = type[ResultSet]
    GroupClass = type[GroupResult]

__all__ = ["Celery", "PendingConfiguration"]


class Celery(ServiceEvents):
    """An application.

    Args:
        main: Name used in task names instead of `__main__`.
        broker: Broker URL.
        backend: Result backend URL.
        include: Modules that a worker imports.
        config_source: Given to `config_from_object`.
        namespace: Prefix of the settings in it.
        task_cls: Class of tasks made by the decorator.
        amqp: Class of `app.amqp`, or its path; likewise `control`, `events` and `log`.
        loader: Not supported: settings and `include` say what is loaded.
        fixups: Instead of `builtin_fixups`.
        set_as_current: Make this the app that shared tasks use.
        autofinalize: Finalise on first use; otherwise that is an error.
        strict_typing: Check arguments when a task is called.
        changes: More settings.
        **settings: More settings; they win over the configuration source.

    Example:
        >>> app = Celery("proj", broker="sqlite:///queue.db")
        >>> @app.task
        ... def add(x: int, y: int) -> int:
        ...     return x + y
    """

    argsrepr_maxsize = 1024
    kwargsrepr_maxsize = 1024
    task_cls: Any = Task
    # What `amqp`, `control`, `events` and `log` are made of: classes, or paths of classes.
    amqp_cls: Any = "celeriac.app.amqp:AMQP"
    control_cls: Any = "celeriac.app.control:Control"
    events_cls: Any = "celeriac.app.events:Events"
    log_cls: Any = "celeriac.app.log:Logging"
    loader_cls = "celeriac.loaders.app:AppLoader"
    #: Functions, or paths of them, that make integrations with frameworks: each is called with the app.
    builtin_fixups: Iterable[Any] = ("celeriac.fixups.django:fixup",)
    # What was added by `add_middleware`, in order; and what `app/middleware.py` knows of it.
    _middleware: tuple[Middleware, ...] = ()
    _hooks: Any = None

    def __init__(
        self,
        main: str | None = None,
        loader: Any = None,
        backend: str | None = None,
        amqp: Any = None,
        events: Any = None,
        log: Any = None,
        control: Any = None,
        set_as_current: bool = True,
        tasks: Any = None,
        broker: str | None = None,
        include: Iterable[str] | None = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        fixups: Iterable[Any] | None = None,
        task_cls: Any = None,
        autofinalize: bool = True,
        namespace: str | None = None,
        strict_typing: bool = True,
        config_source_silent: bool = False,
        **settings: Any,
    ) -> None:
        self.main = main
        self.autofinalize = autofinalize
        self.strict_typing = strict_typing
        self.finalized = False
        self.on_configure = Signal(set(), "app.on_configure")
        self.on_after_configure = Signal({"source"}, "app.on_after_configure")
        self.on_after_finalize = Signal(set(), "app.on_after_finalize")
        self.on_after_fork = Signal(set(), "app.on_after_fork")
        named = {"broker_url": broker, "result_backend": backend, "include": include}
        preconf = {name: value for name, value in named.items() if value is not None}
        self.conf = Settings({**preconf, **(changes or {}), **settings}, self._configured)
        if config_source is not None:
            self.conf.set_source(config_source, namespace, config_source_silent)
        if task_cls is not None:
            self.task_cls = symbol_by_name(task_cls)
        if loader not in (None, "app", "default"):
            raise ImproperlyConfigured("custom loaders are not supported: settings and `include` say what is loaded")
        parts = {"amqp_cls": amqp, "control_cls": control, "events_cls": events, "log_cls": log}
        vars(self).update((name, cls) for name, cls in parts.items() if cls is not None)
        self._tasks: TaskRegistry = tasks if isinstance(tasks, TaskRegistry) else TaskRegistry()
        #: Boot steps: see `celeriac.bootsteps`.
        self.steps: defaultdict[str, set[Any]] = defaultdict(set)
        self._autodiscover: list[tuple[Any, str | None]] = []
        # Guards finalising.
        self._lock = threading.RLock()
        self._engine = Engine(self)
        self._router: tuple[int, Router] | None = None
        # These are made on first use.
        self._backends: Backends | None = None
        self._large_payloads: LargePayloads | None = None
        self._events: Events | None = None
        self._clock: LamportClock | None = None
        self._loader: Any = None
        # Made of `task_cls` on first use, or set by hand.
        self._task_class: Any = None
        #: Set by a child of a worker: ends the body of a chord that a backend written in Python has given up.
        self._child_chord_error: Callable[[Any, BaseException], None] | None = None
        #: Set by a child of a worker: takes `update_state` of running tasks to the supervisor.
        self._child_update: Callable[[int, ResultRecord], None] | None = None
        if set_as_current:
            self.set_current()
        current.register_app(self)
        self.on_init()
        #: Integrations with frameworks that were wanted.
        self._fixups = _made_fixups(self, self.builtin_fixups if fixups is None else fixups)

    def on_init(self) -> None:
        """Called at the end of the constructor; for subclasses."""

    # -- current app

    def set_current(self) -> None:
        """Makes this the current app of this thread."""
        current.set_current_app(self)

    def set_default(self) -> None:
        """Makes this the app of all threads that have none of their own."""
        current.set_default_app(self)

    def __enter__(self) -> Celery:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the client; the app must not be used after."""
        current.deregister_app(self)
        self._engine.close()

    def disconnect(self) -> None:
        """Closes this process' client; the next use of it makes a new one."""
        self._engine.close()

    def after_fork(self) -> None:
        """Called in the child after a fork; tells whoever is connected to `on_after_fork`."""
        self._lock = threading.RLock()
        self.conf.after_fork()
        self._engine.after_fork()
        self.on_after_fork.send(self)

    @property
    def current_task(self) -> Task[..., Any] | None:
        """The task that runs here."""
        return current.get_current_task()

    @property
    def current_worker_task(self) -> Task[..., Any] | None:
        """The task that a worker runs here; direct calls do not count."""
        return current.get_current_worker_task()

    # -- configuration

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Reads settings from an object, a module path or a mapping, on first use.

        Args:
            obj: The source.
            silent: Ignore a module that cannot be imported.
            force: Read now.
            namespace: Only names that start with it, such as `CELERY`.
        """
        self.conf.set_source(obj, namespace, silent)
        if force:
            self.conf.get("broker_url")

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> None:
        """Reads settings from the module that an environment variable names."""
        path = os.environ.get(variable_name)
        if path:
            self.config_from_object(path, silent=silent, force=force)
        elif not silent:
            raise ImproperlyConfigured(f"environment variable {variable_name} names no configuration module")

    def add_defaults(self, fun: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> Any:
        """Adds a layer of settings just above the built-in defaults."""
        self.conf.add_defaults(fun)
        return fun

    def _configured(self, conf: Settings) -> None:
        self.on_configure.send(self)
        self.on_after_configure.send(self, source=conf)

    @property
    def broker_url_effective(self) -> str:
        """The broker that messages are sent to: the embedded one when none is named."""
        return stores.broker_url(self.conf.values_now())

    @property
    def broker_read_url_effective(self) -> str:
        """The broker that workers consume from."""
        return stores.broker_url(self.conf.values_now(), "read")

    @property
    def result_backend_effective(self) -> str | None:
        """Where results go; None when results are off."""
        return stores.result_backend(self.conf.values_now())

    @property
    def uses_embedded_broker(self) -> bool:
        """Whether nobody named a broker."""
        conf = self.conf
        return not current.celery_defaults and not any(
            conf[name] for name in ("broker_url", "broker_read_url", "broker_write_url", "broker_host")
        )

    @property
    def results_enabled(self) -> bool:
        """Whether results are kept."""
        return self.result_backend_effective is not None or self.has_own_backend

    @property
    def has_own_backend(self) -> bool:
        """Whether results are kept by a backend that is written in Python."""
        return stores.own_backend(self.conf.values_now()["result_backend"]) is not None

    @property
    def backend_counts_chords(self) -> bool:
        """Whether a result backend that is written in Python counts the parts of chords itself."""
        from celeriac.backends.base import Backend

        return self.has_own_backend and type(self.backend).apply_chord is not Backend.apply_chord

    @property
    def backend(self) -> Any:
        """Where results are kept, as an object with the methods of Celery's backends; each thread has its own.

        Raises:
            ImproperlyConfigured: The class that `result_backend` names cannot be imported.
        """
        if self._backends is None:
            from celeriac.app.backends import Backends

            self._backends = Backends(self)
        return self._backends.get()

    @property
    def timezone(self) -> tzinfo:
        """The app's zone."""
        conf = self.conf
        return zone(conf.timezone, conf.enable_utc)

    def now(self) -> datetime:
        """The time in the app's zone."""
        return datetime.now(self.timezone)

    def uses_utc_timezone(self) -> bool:
        """Whether the app's zone is UTC."""
        return bool(datetime.now(self.timezone).utcoffset() is not None and str(self.timezone) == "UTC")

    # -- tasks

    @property
    def task(self) -> TaskDecorator:
        """Decorator that makes a task of a function, with or without options.

        Options are attributes of `Task`, and `name`, `base`, `bind`, `shared`, `filter`.
        """
        return cast("TaskDecorator", self._task_decorator)

    def _task_decorator(self, fun: Callable[..., Any] | None = None, **options: Any) -> Any:
        if fun is None:
            return lambda function: self._task_decorator(function, **options)
        if not callable(fun):
            raise TypeError("argument 1 to @task() must be a callable; options go by keyword")
        filter_, shared = options.pop("filter", None), options.pop("shared", False)
        options.pop("lazy", None)
        if shared:
            current.connect_on_app_finalize(lambda app: app._task_from_fun(fun, **options))
        task = self._task_from_fun(fun, **options)
        return filter_(task) if filter_ is not None else task

    def _task_from_fun(
        self, fun: Callable[..., Any], name: str | None = None, base: Any = None, bind: bool = False, **options: Any
    ) -> Task[..., Any]:
        from celeriac.app.declare import task_from_function

        return task_from_function(self, fun, name, base, bind, options)

    def register_task(self, task: Any, **options: Any) -> Task[..., Any]:
        """Registers a class-based task, given as class or instance; replaces one of the same name."""
        instance: Task[..., Any] = task() if isinstance(task, type) else task
        if not instance.name:
            instance.name = self.gen_task_name(type(instance).__name__, type(instance).__module__)
        for option, value in options.items():
            setattr(instance, option, value)
        instance.app = self
        self._tasks[instance.name] = instance
        if self.finalized:
            instance.bind(self)
        return instance

    def gen_task_name(self, name: str, module: str | None) -> str:
        """The automatic name of a task; for subclasses to override."""
        return gen_task_name(self, name, module)

    def add_middleware(self, *middleware: Any) -> None:
        """Adds middleware to all tasks of this app, after what is there.

        Example:
            >>> app.add_middleware(Correlation(), "celeriac.middleware.prometheus.Prometheus")

        Args:
            *middleware: Instances of subclasses of `celeriac.middleware.Middleware`, classes, or their dotted names.

        Raises:
            TypeError: It is no middleware.
        """
        from celeriac.app.middleware import as_middleware

        self._middleware = (*self._middleware, *as_middleware(middleware))
        # Templates of messages were made without it.
        self.conf._generation += 1

    @property
    def tasks(self) -> TaskRegistry:
        """The tasks by name; reading finalises the app."""
        self.finalize(auto=True)
        return self._tasks

    def finalize(self, auto: bool = False) -> None:
        """Gives every task its settings. Runs by itself on first use unless `autofinalize` is off."""
        if self.finalized:
            return
        # Before the lock: those who are told that settings were read may use tasks.
        self.conf.values_now()
        with self._lock:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError("Contract breach: app not finalized")
            current.announce_app_finalized(self)
            add_builtin_tasks(self)
            for task in list(self._tasks.values()):
                task.bind(self)
            self.finalized = True
        self.on_after_finalize.send(self)

    @property
    def Task(self) -> Any:
        """Base class of tasks, bound to this app; may be replaced by a subclass of it."""
        if self._task_class is None:
            base = symbol_by_name(self.task_cls)
            self._task_class = type(base.__name__, (base,), {"app": self, "__module__": base.__module__})
        return self._task_class

    @Task.setter
    def Task(self, base: Any) -> None:
        from celeriac.app.declare import rebase

        old, self._task_class = self.Task, base
        if not self.finalized:
            # Celery makes its tasks late, so that those declared before get this base as well.
            for task in self._tasks.values():
                rebase(task, old, base)

    def autodiscover_tasks(self, packages: Any = None, related_name: str | None = "tasks", force: bool = False) -> None:
        """Imports `<package>.tasks` of each package, when the worker imports its modules.

        Args:
            packages: Names, or something that is called for them; those of Django's installed apps unless given.
            related_name: Module to look for; None imports the packages themselves.
            force: Import now.
        """
        self._autodiscover.append((packages, related_name))
        if force:
            self._import_discovered(packages, related_name)

    def import_default_modules(self) -> None:
        """Imports what the settings name (`imports`, `include`) and what is to be discovered.

        Raises:
            Exception: What a receiver of `import_modules` has raised, such as Django's set-up.
        """
        from importlib import import_module

        from celeriac.signals import import_modules

        for _, answer in import_modules.send(self):
            if isinstance(answer, Exception):
                raise answer
        for name in (*(self.conf.imports or ()), *(self.conf.include or ())):
            import_module(name)
        for packages, related_name in self._autodiscover:
            self._import_discovered(packages, related_name)

    def _import_discovered(self, packages: Any, related_name: str | None) -> None:
        from celeriac.app.autodiscover import autodiscover

        if packages is None:
            # What the frameworks know: Django's installed apps.
            packages = [name for fixup in self._fixups for name in fixup.autodiscover_tasks()]
        names = packages() if callable(packages) else packages
        autodiscover([names] if isinstance(names, str) else names or (), related_name)

    def add_periodic_task(
        self, schedule: Any, sig: Any, args: Any = (), kwargs: Any = None, name: str | None = None, **opts: Any
    ) -> str:
        """Adds an entry to `beat_schedule`; gives its name.

        Args:
            schedule: When: seconds, a timedelta or a schedule.
            sig: The task's signature.
            args: More positional arguments.
            kwargs: More keyword arguments.
            name: Name of the entry.
            **opts: More options of the task's messages; `overlap="skip"` (not sent while the one before is queued or runs) or
                `"queue"` (at most one waits behind the one that runs), `jitter` (seconds by which a moment may be late).
        """
        call = sig.clone(args, kwargs or {}, **opts)
        key = name or repr(call)
        entry = {
            "task": call.name,
            "schedule": schedule,
            "args": call.args,
            "kwargs": call.kwargs,
            "options": call.options,
        }
        self.conf.beat_schedule = {**self.conf.beat_schedule, key: entry}
        return key

    # -- sending

    def send_task(
        self,
        name: str,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        countdown: float | None = None,
        eta: Any = None,
        task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Sends a task by name; its code need not be here. Options as for `Task.apply_async`."""
        if self.conf.task_always_eager:
            import warnings

            warnings.warn(AlwaysEagerIgnored("task_always_eager has no effect on send_task"), stacklevel=2)
        if countdown is not None:
            options["countdown"] = countdown
        if eta is not None:
            options["eta"] = eta
        if task_id is not None:
            options["task_id"] = task_id
        collect = getattr(options.pop("producer", None), "collect", None)
        task = options.pop("task_type", None) or self._tasks.get(name)
        message = send.compose(self, name, args, kwargs, task, options)
        if collect is not None:
            # Part of a workflow, which is sent as a whole.
            return cast("AsyncResult[Any]", collect(message, options))
        send.publish(self, message, options)
        return self._sent(message, options)

    #: To see whether somebody has replaced it.
    _own_send_task = send_task

    @property
    def http_task(self) -> HttpTask:
        """Sends HTTP requests as tasks of this app, see `celeriac.http_task`."""
        from celeriac.app.http_tasks import HttpTask

        return HttpTask(self)

    def lock(self, name: str, ttl: float = 60.0, wait: float | None = 0.0) -> Lock:
        """A lock that one process at a time holds, for `with` and `async with`. Not reentrant.

        Example:
            >>> with app.lock("stock:42", ttl=30, wait=5) as lock:
            ...     warehouse.write(item, fence=lock.fence)

        Args:
            name: Of the lock.
            ttl: Seconds after which it is free, whatever its holder does; `lock.extend()` begins them anew.
            wait: Seconds to wait for it, then LockNotAcquired is raised; None: for as long as it takes.
        """
        from celeriac.app.locks import Lock

        return Lock(self, name, ttl, wait)

    def send_many(self, signatures: Iterable[Signature[Any]]) -> list[AsyncResult[Any]]:
        """Sends many signatures (chains too) in few round trips: some 1,000 messages in each.

        Example:
            >>> results = app.send_many(resize.s(name).set(queue="images") for name in names)

        Raises:
            OperationalError: The broker did not take all; its `sent` has the results of those that were sent before.
        """
        from celeriac.app import batch

        if self.conf.values_now()["task_always_eager"]:
            return [signature.apply_async() for signature in signatures]
        return batch.send_all(self, batch.of_signatures(self, signatures))

    async def asend_many(self, signatures: Iterable[Signature[Any]]) -> list[AsyncResult[Any]]:
        """`send_many` for coroutines."""
        from celeriac.app import batch

        if self.conf.values_now()["task_always_eager"]:
            return [signature.apply_async() for signature in signatures]
        return await batch.send_all_later(self, batch.of_signatures(self, signatures))

    def compose_task_message(
        self, name: str, args: Any, kwargs: Any, task: AnyTask | None, options: dict[str, Any]
    ) -> send.Message:
        """The message of a call, without sending it."""
        return send.compose(self, name, args, kwargs, task, options)

    def counts_chords(self) -> bool:
        """Whether the result backend counts the parts of chords itself; otherwise a task polls for them.

        Raises:
            NotImplementedError: It cannot join chords at all.
        """
        from celeriac.app import workflows

        return workflows.counts_chords(self)

    def _send_composition(self, composition: Composition, options: Mapping[str, Any]) -> Any:
        from celeriac.app import workflows

        return workflows.send_all(self, composition, options)

    async def _asend_composition(self, composition: Composition, options: Mapping[str, Any]) -> Any:
        from celeriac.app import workflows

        return await workflows.asend(self, composition, options)

    def _sent(self, message: send.Message, options: Mapping[str, Any]) -> AsyncResult[Any]:
        """The result object of a message that was sent; a child of the task that runs here."""
        result = self.AsyncResult(message.id, task_name=message.task)
        result.ignored = bool(message.ignores)
        if message.deduplicated:
            result.deduplicated = True
        if options.get("add_to_parent", True):
            parent = current.get_current_worker_task()
            if parent is not None:
                parent.add_trail(result)
        return result

    def signature(self, varies: Any, *args: Any, **kwargs: Any) -> Signature[Any]:
        """A signature bound to this app."""
        from celeriac.canvas.signature import signature

        kwargs["app"] = self
        return signature(varies, *args, **kwargs)

    def AsyncResult(
        self, task_id: str, backend: Any = None, task_name: str | None = None, **kw: Any
    ) -> AsyncResult[Any]:
        """The result of a task id."""
        return AsyncResult(task_id, backend=backend, task_name=task_name, app=self, **kw)

    @cached_property
    def ResultSet(self) -> SetClass:
        """The class of sets of results of this app."""
        from celeriac.result.result_set import ResultSet

        return ResultSet.bound(self)

    @cached_property
    def GroupResult(self) -> GroupClass:
        """The class of results of this app's groups: `app.GroupResult.restore(id)`."""
        from celeriac.result.result_set import GroupResult

        return GroupResult.bound(self)

    @property
    def router(self) -> Router:
        """Where tasks go; made anew when settings change."""
        held, generation = self._router, self.conf._generation
        if held is None or held[0] != generation:
            held = (generation, Router(self.conf, None if held is None else held[1].queues))
            self._router = held
        return held[1]

    @property
    def client(self) -> Client:
        """The engine's client of this process."""
        return self._engine.client

    @property
    def large_payloads(self) -> LargePayloads | None:
        """Where large arguments and results are kept; None unless `large_payload_store` is set."""
        if not self.conf.values_now()["large_payload_store"]:
            return None
        from celeriac.app.large import of_app

        return of_app(self)

    @property
    def oid(self) -> str:
        """Names this app in this process."""
        return self.thread_oid

    @property
    def thread_oid(self) -> str:
        """Names this app in this thread; `reply_to` of its messages."""
        return self._engine.thread_oid

    @property
    def reply_queue(self) -> str:
        """The queue that results of `rpc://` come back on: one for each process."""
        return self._engine.reply_queue

    @property
    def amqp(self) -> AMQP:
        """Queues and routes."""
        made: AMQP = symbol_by_name(self.amqp_cls)(self)
        return made

    def select_queues(self, queues: Iterable[str] | str | None = None) -> None:
        """Workers of this app consume from these queues only."""
        self.amqp.queues.select(queues)

    @property
    def loader(self) -> Any:
        """Imports the modules of this app."""
        if self._loader is None:
            self._loader = symbol_by_name(self.loader_cls)(self)
        return self._loader

    @property
    def has_own_task_class(self) -> bool:
        """Whether tasks are of a class that the project has chosen."""
        return self.task_cls is not Celery.task_cls

    @property
    def events(self) -> Events:
        """Events: `Receiver`, `Dispatcher`, `State`."""
        if self._events is None:
            self._events = cast("Events", symbol_by_name(self.events_cls)(self))
        return self._events

    @property
    def clock(self) -> LamportClock:
        """The logical clock of this process, as events have it."""
        if self._clock is None:
            from celeriac.utils.clocks import LamportClock

            self._clock = LamportClock()
        return self._clock

    def connection(self, url: str | None = None, **kwargs: Any) -> Connection:
        """Stands for the connection to the broker, where code written for Celery passes one around.

        Args:
            url: Another broker is not supported: that would be another app.
            **kwargs: Accepted for compatibility.

        Raises:
            ImproperlyConfigured: Another broker is asked for.
        """
        from celeriac.app.connection import Connection

        if url is not None and url != self.broker_url_effective:
            raise ImproperlyConfigured("a connection to another broker needs an app of its own, with that broker_url")
        return Connection(self, self.broker_url_effective)

    connection_for_write = broker_connection = connection

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Connection:
        """The same."""
        return self.connection(url)

    def connection_or_acquire(self, connection: Any = None, pool: bool = True, *_: Any, **__: Any) -> Any:
        """The given connection, or one of the app's; for `with`."""
        return self.connection() if connection is None else connection

    @property
    def control(self) -> Control:
        """Commands to workers."""
        made: Control = symbol_by_name(self.control_cls)(self)
        return made

    @property
    def log(self) -> Logging:
        """Logging as a worker of this app has it."""
        made: Logging = symbol_by_name(self.log_cls)(self)
        return made

    @property
    def schedules(self) -> Schedules:
        """Periodic tasks: lists, adds, pauses, resumes and removes them while beats run."""
        from celeriac.app.periodic import Schedules

        return Schedules(self)

    @property
    def dead_letters(self) -> DeadLetters:
        """Messages that will not be tried again: lists, retries, drops and exports them."""
        from celeriac.app.dead_letters import DeadLetters

        return DeadLetters(self)

    # -- programs

    @property
    def Beat(self) -> Any:
        """The program that sends periodic tasks, as a class: `app.Beat(loglevel="info").run()`."""
        from importlib import import_module

        base = import_module("celeriac.beat.program").Beat
        return type(base.__name__, (base,), {"app": self, "__module__": base.__module__})

    def bugreport(self) -> str:
        """Versions and settings, secrets masked, to put into a bug report."""
        from celeriac.app.bugreport import bugreport

        return bugreport(self)

    def worker_main(self, argv: list[str] | None = None) -> None:
        """Runs the command line's `worker` for this app."""
        if argv is None or "worker" not in argv:
            raise ValueError("the argument list must contain `worker`")
        self.start(argv)

    def start(self, argv: list[str] | None = None) -> None:
        """Runs the command line for this app."""
        from importlib import import_module

        self.set_default()
        import_module("celeriac.__main__").main(argv)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'} at {id(self):#x}>"


def _made_fixups(app: Celery, fixups: Iterable[Any]) -> list[Any]:
    # The only one that there is by itself costs an app without Django no import.
    wanted = [
        fixup for fixup in fixups if fixup not in Celery.builtin_fixups or os.environ.get("DJANGO_SETTINGS_MODULE")
    ]
    return [made for fixup in wanted if (made := symbol_by_name(fixup)(app)) is not None]
