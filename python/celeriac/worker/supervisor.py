"""The worker's own process: sets everything up, starts the engine, waits, and stops it.

The order is: import the app, start-up signals, logging, banner, fork the fork server (while there is only
one thread), start the engine, wait. User code runs on the main thread alone; the engine needs none of it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.app import log
from celeriac.app.unused import without_effect
from celeriac.backends.find import by_url
from celeriac.exceptions import ImproperlyConfigured
from celeriac.worker import fork_server, pools, process, stacks, task_signals
from celeriac.worker.banner import banner
from celeriac.worker.batches import warn_of_batches
from celeriac.worker.child import ChildServer
from celeriac.worker.consumer import Consumer
from celeriac.worker.control import Desk
from celeriac.worker.embedded_beat import Companion, EmbeddedBeat, EmbeddedRelay
from celeriac.worker.pidfile import PidFile
from celeriac.worker.service import ServiceManager
from celeriac.worker.steps import Steps
from celeriac.worker.timer import Timer

if TYPE_CHECKING:
    from celeriac import _core
    from celeriac.app.base import Celery
    from celeriac.worker.large import PayloadKeeper
    from celeriac.worker.setup import Setup
    from celeriac.worker.solo import SoloLoop

logger = logging.getLogger("celery.worker")

#: How long the engine's thread may take to end after it has said that it stopped.
JOIN_SECONDS = 5.0
#: How long it may take at the end to delete large payloads whose messages are settled; what is left expires.
PAYLOADS_SECONDS = 5.0
#: A second SIGTERM this soon after the first is the same order.
ONE_ORDER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line says beyond settings."""

    pool: str = "prefork"
    #: Children of a pool whose children have several slots.
    processes: int = 1
    #: (max, min) slots.
    autoscale: tuple[int, int] | None = None
    queues: tuple[str, ...] = ()
    exclude_queues: tuple[str, ...] = ()
    purge: bool = False
    pidfile: str | None = None
    quiet: bool = False
    #: `-B`: file and class of the scheduler.
    beat: tuple[str | None, str | None] | None = None
    options: dict[str, Any] = field(default_factory=dict)


class WorkController:
    """A worker. Start-up signals are given it as `instance` or sender.

    All fields belong to the main thread; signal handlers run on it too.
    """

    def __init__(self, app: Celery, setup: Setup, arguments: Arguments) -> None:
        self.app = app
        self.hostname = setup.node
        self.arguments = arguments
        self.queues: list[str] = []
        self.concurrency = 0
        self.exitcode: int | None = None
        #: Boot steps that were included; they add themselves.
        self.steps: list[Any] = []
        self.timer = Timer()
        self._service = ServiceManager()
        self._setup = setup
        self._engine: _core.Worker | None = None
        self._stopping: str | None = None
        self._restart = False
        # When the first SIGTERM came.
        self._first_term: float | None = None
        self._consumer = Consumer(app, self.hostname, self)
        self._desk = Desk(app, self.hostname, self._consumer)
        # Made when the app is finalised, since it reads settings.
        self._task_signals: task_signals.TaskSignals | None = None
        # The beat of `-B`, the relay of `--outbox`.
        self._companions: list[Companion] = []
        self._payloads: PayloadKeeper | None = None

    def run(self) -> int:
        """Runs the worker until it is told to stop.

        Returns:
            0 after a warm stop, 1 after a cold one or a failure to start.

        Raises:
            ImproperlyConfigured: A setting, queue or URL is wrong.
            OperationalError: The broker cannot be used.
        """
        self._announce_start()
        log_options = self._setup.log_options(self.app)
        owns_logging = log.setup(log_options)
        steps = Steps(self, self.app.steps)
        for name, reason in without_effect(self.app.conf):
            logger.warning("The setting %s does nothing here: %s.", name, reason)
        if self.app.has_own_backend:
            # Children need it: whether it can be imported shows here.
            by_url(self.app.conf.result_backend)
        warn_of_batches(self.app, self.concurrency, one_process=self.arguments.pool not in pools.ONE_SLOT)
        signals.celeryd_after_setup.send(sender=self.hostname, instance=self, conf=self.app.conf)
        options = self._engine_options()
        if self.arguments.beat is not None:
            self._companions.append(EmbeddedBeat(self.app, self._setup, *self.arguments.beat))
        if self.app.conf.outbox_url:
            self._companions.append(EmbeddedRelay(self.app, self._setup))
        pidfile = PidFile(self.arguments.pidfile) if self.arguments.pidfile else None
        if pidfile:
            pidfile.acquire()
        streams = sys.stdout, sys.stderr
        try:
            if self.arguments.purge:
                self._purge()
            if not self.arguments.quiet:
                sys.__stderr__ and print(banner(self, self.app), file=sys.__stderr__, flush=True)
            if owns_logging and log_options.redirect_stdouts:
                log.redirect_stdouts(log_options)
            code = self._run_pool(options, log_options, steps)
        finally:
            sys.stdout, sys.stderr = streams
            if pidfile:
                pidfile.release()
        if self._restart and code == 0:
            self._exec_again()
        return code

    def stop(self, how: str, name: str) -> None:
        """Stops the engine.

        Args:
            how: `warm` or `cold`. The first cold one lets tasks end for `worker_soft_shutdown_timeout`.
            name: The signal that asks for it.
        """
        if self._engine is None:
            raise SystemExit(1)
        if self._stopping == "soft" and how == "cold":
            self._stopping = how
            self._engine.stop(how)
        if self._stopping in {"cold", "soft", how}:
            return
        self._stopping = how if how == "warm" or not self.app.conf.worker_soft_shutdown_timeout else "soft"
        code = 0 if how == "warm" else 1
        _say(f"worker: {how.capitalize()} shutdown ({log.MAIN_PROCESS})")
        signals.worker_shutting_down.send(sender=self.hostname, sig=name, how=how.capitalize(), exitcode=code)
        self._engine.stop(self._stopping)
        for companion in self._companions:
            companion.stop()

    def _announce_start(self) -> None:
        app = self.app
        signals.celeryd_init.send(sender=self.hostname, instance=self, conf=app.conf, options=self.arguments.options)
        self._setup.apply_settings(app)
        _check_privileges(app)
        if app.conf.worker_pool_start_method != "fork":
            raise ImproperlyConfigured("worker_pool_start_method can only be 'fork': leave it out")
        scale = self.arguments.autoscale
        self.concurrency = _concurrency(scale[1] if scale else app.conf.worker_concurrency, self.arguments.pool)
        app.conf.worker_concurrency = self.concurrency
        signals.worker_init.send(sender=self)

    def _engine_options(self) -> dict[str, Any]:
        from celeriac.app.options import worker_options

        if self.arguments.pool != "solo" and self.app.broker_read_url_effective.startswith("memory:"):
            raise ImproperlyConfigured(
                f"memory:// lives in one process, and the {self.arguments.pool} pool runs tasks in others: name a broker that "
                "processes can share, such as sqlite:///, or use --pool solo"
            )
        options = worker_options(
            self.app,
            node=self.hostname,
            queues=list(self.arguments.queues) or None,
            exclude_queues=list(self.arguments.exclude_queues),
            concurrency=self.concurrency,
            processes=self.arguments.processes if self.arguments.pool in pools.SEVERAL_SLOTS else None,
            autoscale=self.arguments.autoscale,
            autoscale_keepalive=float(os.environ.get("AUTOSCALE_KEEPALIVE") or 30),
        )
        self.queues = list(options["queues"])
        if not self.queues and "http" not in options:
            raise ImproperlyConfigured("no queue is left to consume from")
        if self.app.conf.worker_disable_prefetch:
            # As many messages as there are processes: none waits behind a task that runs.
            options["prefetch_multiplier"] = 1
        given = self.arguments.options
        if given.get("without_heartbeat"):
            options["heartbeat_seconds"] = None
        elif given.get("heartbeat_interval"):
            options["heartbeat_seconds"] = given["heartbeat_interval"]
        from celeriac.worker.about import control_options

        without_mingle = bool(self.arguments.options.get("without_mingle"))
        options["control"] = control_options(
            self.app, self.hostname, pool=self.arguments.pool, without_mingle=without_mingle
        )
        options["log_level"] = logging.getLogger("celery").getEffectiveLevel()
        self._task_signals = task_signals.TaskSignals(self.app, self.hostname, self._consumer)
        options.update(self._service.options(), tell=task_signals.wanted(self.app))
        return options

    def _purge(self) -> None:
        count = sum(self.app.client.purge(queue) for queue in self.queues)
        _say(f"purge: Erased {count} messages from the queue{'s' if len(self.queues) != 1 else ''}.")

    def _run_pool(self, options: dict[str, Any], log_options: log.LogOptions, steps: Steps) -> int:
        from celeriac import _core

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        if self.arguments.pool == "solo":
            options["child_fd"] = ours.detach()
            engine = self._engine = _core.Worker(options)
            loop = self._solo_loop()(
                self.app, self.hostname, theirs.detach(), engine.fileno(), self._take_notices, self.timer.run_due
            )
            return self._run_engine(engine, loop.run, None, steps)
        pool = self.arguments.pool
        replace(self._setup, pool=pool, slots=self.concurrency).to_environment()
        options["fork_server_argv"] = [sys.executable, "-m", "celeriac.worker.fork_server"]
        if pool == "gevent":
            # The fork server has to be patched before it imports the app, which is imported here already: the engine
            # starts one by exec.
            ours.close()
            theirs.close()
            engine = self._engine = _core.Worker(options)
            return self._run_engine(engine, lambda: self._wait(engine), None, steps)
        descriptor = options["fork_server_fd"] = ours.detach()
        # Before the fork: it checks options and URLs, and starts no thread yet.
        engine = self._engine = _core.Worker(options)
        # Purging, or a handler of a start-up signal, may have used the client, which has threads.
        self.app.disconnect()
        _core.shutdown_runtime()
        if (threads := process.thread_count()) > 1:
            logger.warning(
                "This process has %d threads already: importing the app started some. Children are forked from it, "
                "and a lock that another thread holds stays locked in them. Start threads in worker_process_init.",
                threads,
            )
        server = ChildServer(self.app, self.hostname, log_options, pool, self.concurrency)
        pid = fork_server.start(server, descriptor, theirs)
        return self._run_engine(engine, lambda: self._wait(engine), pid, steps)

    def _run_engine(self, engine: _core.Worker, wait: Callable[[], None], pid: int | None, steps: Steps) -> int:
        let_go = self._take_signals()
        try:
            steps.start()
            engine.start()
            for companion in self._companions:
                companion.start()
            self._payloads = _keep_payloads(self.app)
            wait()
        except BaseException:
            engine.stop("cold")
            raise
        finally:
            engine.join(JOIN_SECONDS)
            steps.stop(cold=self._stopping not in {None, "warm"})
            for companion in self._companions:
                companion.join()
            if self._payloads is not None:
                self._take_notices()
                self._payloads.stop(PAYLOADS_SECONDS)
            signals.worker_shutdown.send(sender=self)
            if pid is not None:
                _reap(pid)
            let_go()
        return self.exitcode if self.exitcode is not None else 1

    def _wait(self, engine: _core.Worker) -> None:
        # Handlers of signals run inside `poll`, which goes on waiting after them.
        poll = select.poll()
        poll.register(engine.fileno(), select.POLLIN)
        while self.exitcode is None:
            poll.poll(self.timer.run_due())
            self._take_notices()

    def _take_notices(self) -> bool:
        """Deals with what the engine has to say.

        Returns:
            Whether the engine has stopped.
        """
        assert self._engine is not None
        for notice in self._engine.notices():
            match notice:
                case ("log", level, name, message, created, task_id, task_name):
                    log.emit(level, name, message, created, task_id, task_name)
                case ("ready",):
                    signals.worker_ready.send(sender=self._consumer)
                    logger.info("%s ready.", self.hostname)
                    # A handler may have connected others.
                    self._engine.tell(task_signals.wanted(self.app))
                case ("task", event, execution, why, signum):
                    assert self._task_signals is not None
                    self._task_signals.send(event, execution, why, signum)
                case ("settled", reference):
                    if self._payloads is not None:
                        self._payloads.settled(reference)
                case ("command", number, method, arguments):
                    self._desk.carry_out(self._engine, number, method, arguments)
                case ("stopped", code, text):
                    self.exitcode = code
                    if text:
                        logger.error("%s", text)
        return self.exitcode is not None

    def _solo_loop(self) -> type[SoloLoop]:
        """What serves the solo pool."""
        from celeriac.worker.solo import SoloLoop

        return SoloLoop

    def _take_signals(self) -> Callable[[], None]:
        """Makes the signals of this process orders to this worker; gives what lets go of them."""
        wake_read, wake_write = os.pipe()
        for descriptor in (wake_read, wake_write):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._install_signals()

        def let_go() -> None:
            signal.set_wakeup_fd(-1)
            os.close(wake_read)
            os.close(wake_write)

        return let_go

    def _install_signals(self) -> None:
        quit_on_term = os.environ.get("REMAP_SIGTERM") == "SIGQUIT"
        signal.signal(signal.SIGTERM, self._on_quit if quit_on_term else self._on_term)
        signal.signal(signal.SIGQUIT, self._on_quit)
        signal.signal(signal.SIGINT, self._on_int)
        signal.signal(signal.SIGHUP, self._on_hup)
        if self.arguments.pool != "solo":
            stacks.register_supervisor(self._children)

    def _children(self) -> list[int]:
        return self._engine.stats().get("pids", []) if self._engine is not None else []

    def _on_term(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first_term is None:
            self._first_term = now
        # One order may come twice: some programs signal the process, and then its group.
        again = now - self._first_term > ONE_ORDER_SECONDS
        self.stop("cold" if again else "warm", "SIGTERM")

    def _on_quit(self, signum: int, frame: FrameType | None) -> None:
        self.stop("cold", signal.Signals(signum).name)

    def _on_int(self, signum: int, frame: FrameType | None) -> None:
        if self._stopping == "cold":
            process.leave(1)  # The third one: leave at once; the kernel ends the children.
        if self._stopping is None:
            _say("worker: Hitting Ctrl+C again will terminate all running tasks!")
            self.stop("warm", "SIGINT")
        else:
            self.stop("cold", "SIGINT")

    def _on_hup(self, signum: int, frame: FrameType | None) -> None:
        self._restart = not os.isatty(0)
        self.stop("warm", "SIGHUP")

    def _exec_again(self) -> None:
        os.environ.pop("CELERIAC_WORKER_SETUP", None)
        self._service.restore()
        process.flush_stdio()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _concurrency(value: Any, pool: str) -> int:
    if pool == "solo":
        return 1
    if value in (None, 0, "", "auto"):
        try:
            return len(os.sched_getaffinity(0))
        except AttributeError:
            return os.cpu_count() or 1
    try:
        count = int(value)
    except (TypeError, ValueError):
        raise ImproperlyConfigured(f"worker_concurrency must be a number or 'auto', not {value!r}") from None
    if count < 1:
        raise ImproperlyConfigured(f"worker_concurrency must be at least 1, not {count}")
    return count


def _keep_payloads(app: Celery) -> PayloadKeeper | None:
    if not app.conf.large_payload_store:
        return None
    from celeriac.app import large
    from celeriac.worker.large import PayloadKeeper

    payloads = large.of_app(app)
    if payloads is None:
        return None
    keeper = PayloadKeeper(payloads)
    keeper.start()
    return keeper


def _check_privileges(app: Celery) -> None:
    """Refuses to decode pickles as root: whoever can write to the broker would be root too."""
    accept = {str(item).lower() for item in app.conf.accept_content or ()}
    risky = accept & {"pickle", "application/x-python-serialize"}
    if risky and hasattr(os, "geteuid") and os.geteuid() == 0 and not os.environ.get("C_FORCE_ROOT"):
        raise ImproperlyConfigured(
            "accept_content allows pickle, and this is root: anyone who can send a message could run code as root. "
            "Run the worker as another user, or set C_FORCE_ROOT=1"
        )


def _say(text: str) -> None:
    """Writes to the terminal at once. Safe in a signal handler: no lock, no buffer."""
    try:
        os.write(2, f"\n{text}\n".encode())
    except OSError:
        pass


def _reap(pid: int) -> None:
    """Takes the exit status of the first fork server, which leaves when the engine hangs up."""
    deadline = time.monotonic() + fork_server.FAREWELL_SECONDS + 1
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return
        except ChildProcessError:
            return
        time.sleep(0.005)
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
