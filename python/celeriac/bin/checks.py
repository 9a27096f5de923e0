"""What `doctor` checks. Each check is a function that gives findings; `examine` is the list of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from celeriac.app.unused import without_effect
from celeriac.exceptions import ImproperlyConfigured, OperationalError
from celeriac.utils.imports import qualname
from celeriac.utils.urls import without_password

if TYPE_CHECKING:
    from celeriac.app.base import Celery

#: Clocks that differ by more make `eta` and `expires` wrong by that much.
CLOCK_MS = 1000
#: A row of an outbox that is older was overlooked.
OUTBOX_SECONDS = 60.0
#: Queues that are named in one finding.
NAMED = 10
#: File systems whose locks other hosts do not see, or that do not keep shared memory together.
_NETWORK = {
    "9p",
    "afs",
    "ceph",
    "cifs",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.sshfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
}
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1", ""}
_EMBEDDED = ("sqlite:", "memory:")
_REDIS = ("redis:", "rediss:", "sentinel:", "redis+socket:")
_AMQP = ("amqp:", "amqps:", "pyamqp:")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: level is ok, info, warning or error."""

    level: str
    about: str
    text: str
    advice: str = ""


ok = partial(Finding, "ok")
info = partial(Finding, "info")
warning = partial(Finding, "warning")
error = partial(Finding, "error")


def examine(app: Celery, timeout: float) -> Iterator[Finding]:
    """All checks, in the order in which they are shown. What cannot be reached is not asked again.

    Raises:
        ImproperlyConfigured: The settings cannot be read at all.
    """
    yield from versions(app)
    yield from settings(app)
    yield from secrets(app)
    yield from embedded(app)
    report = None
    try:
        report = app.client.examine_broker()
    except (OperationalError, ImproperlyConfigured) as exc:
        yield error("broker", without_password(str(exc)), "is broker_url right, and does the server run?")
    else:
        yield from broker(app, report)
        yield from other_broker(app)
        yield from queues(app, report)
        yield from workers(app, timeout)
    yield from results(app, report)
    if app.conf.outbox_url:
        yield from outbox(app)


def versions(app: Celery) -> Iterator[Finding]:
    """Ours and Python's."""
    from celeriac import __version__

    yield info("versions", f"celeriac {__version__}, Python {platform.python_version()}, {platform.system()}")


# -- settings


def settings(app: Celery) -> Iterator[Finding]:
    """Settings that are a risk whatever the broker."""
    conf = app.conf
    accepted = {str(item).lower() for item in (*(conf.accept_content or ()), *(conf.result_accept_content or ()))}
    if accepted & {"pickle", "application/x-python-serialize"}:
        yield warning(
            "accept_content",
            "pickle is accepted: whoever can write to the broker can run code in the workers",
            "send JSON, and take pickle out of accept_content and result_accept_content",
        )
    for name, reason in without_effect(conf):
        yield info(
            "settings", f"{name} does nothing here: {reason}", "leave it out, if Celery does not read it as well"
        )
    tasks = [task for name, task in sorted(app.tasks.items()) if not name.startswith(("celery.", "celeriac."))]
    if not tasks:
        yield warning("tasks", "the app has no task", "name their modules in `include`, or see autodiscover_tasks")
    yield from _limits(app, tasks)
    late = [task.name for task in tasks if task.acks_late]
    lost = [task.name for task in tasks if task.acks_late and not task.reject_on_worker_lost]
    if lost:
        yield info(
            "acks_late",
            f"{_some(lost)}: acknowledged late, but not run again when its process is killed",
            "if it may run twice, set reject_on_worker_lost=True; it is tried worker_max_crashes times at the most",
        )
    elif late:
        yield ok("acks_late", f"{_some(late)}: run again when a process is lost")


def _limits(app: Celery, tasks: list[Any]) -> Iterator[Finding]:
    if app.conf.task_time_limit or app.conf.task_soft_time_limit:
        yield ok("time limits", "there is one for all tasks")
        return
    free = [task.name for task in tasks if task.time_limit is None and task.soft_time_limit is None]
    if free:
        yield warning(
            "time limits",
            f"{_some(free)}: a call that hangs holds its slot for ever",
            "set task_time_limit (and task_soft_time_limit below it), or time_limit of the task",
        )


def secrets(app: Celery) -> Iterator[Finding]:
    """Passwords that everyone knows, or none, on a way that others share."""
    for about, url in _urls(app):
        for one in url.split(";"):
            yield from _login(about, one)


def _login(about: str, url: str) -> Iterator[Finding]:
    scheme = url.partition("://")[0] + ":"
    if scheme not in _REDIS + _AMQP or scheme == "redis+socket:":
        return
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError:
        return  # The engine says what is wrong with it.
    if host in _LOCAL_HOSTS:
        return
    shown = without_password(url)
    if scheme in _AMQP and parts.username in (None, "guest") and parts.password in (None, "guest"):
        yield warning(about, f"{shown}: the login is guest with its default password, over the network",
                      "make a user of your own with rabbitmqctl add_user; servers refuse guest from other hosts")  # fmt: skip
    elif scheme in _REDIS and not parts.password:
        yield warning(
            about,
            f"{shown}: no password, over the network",
            "set requirepass or a user with a password, and name it in the URL",
        )
    if scheme in ("redis:", "amqp:", "pyamqp:", "sentinel:"):
        yield info(about, f"{shown}: messages and the password cross the network unencrypted",
                   "if others share that network: rediss:// or amqps://, or broker_use_ssl")  # fmt: skip


def _urls(app: Celery) -> list[tuple[str, str]]:
    found = {
        "broker": app.broker_url_effective,
        "broker to read from": app.broker_read_url_effective,
        "result backend": app.result_backend_effective or "",
    }
    urls: dict[str, str] = {}
    for about, url in found.items():
        urls.setdefault(url, about)
    return [(about, url) for url, about in urls.items() if url]


def embedded(app: Celery) -> Iterator[Finding]:
    """The file of the embedded store."""
    for about, url in _urls(app):
        if not url.startswith("sqlite:"):
            continue
        path = os.path.abspath(url.partition("://")[2].partition("?")[0].removeprefix("/") or "celeriac.db")
        kind = _file_system(path)
        if kind in _NETWORK:
            yield error(about, f"the file {path} is on a network file system ({kind}), where its locks do not hold",
                        "put it on a disk of this host; for several hosts use Redis or RabbitMQ")  # fmt: skip


def _file_system(path: str) -> str:
    """The kind of file system that a path is on; empty where it cannot be told."""
    real = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open("/proc/mounts") as file:
            mounts = [line.split()[1:3] for line in file]
    except OSError:
        return ""
    for point, name in mounts:
        point = point.replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


# -- the broker


def broker(app: Celery, report: dict[str, Any]) -> Iterator[Finding]:
    """It is reached; what it says of itself."""
    url = app.broker_url_effective
    version = f" (version {report['version']})" if report["version"] else ""
    yield ok("broker", f"{without_password(url)}{version} is reached, and lets us in")
    yield from _server("broker", report["settings"], loses="messages")
    known = ("maxmemory-policy", "keeps nothing on disk")
    for text in report["advice"]:
        if not any(word in text for word in known):
            yield warning("broker", text)
    yield from _clock("broker", report)
    if url.startswith(_REDIS):
        yield from _visibility(app)
    if url.startswith(_AMQP):
        yield from _queue_types(app)


def _server(about: str, found: dict[str, str], loses: str) -> Iterator[Finding]:
    policy = found.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        yield warning(about, f"Redis throws {loses} away when its memory is full (maxmemory-policy {policy})",
                      "CONFIG SET maxmemory-policy noeviction, and in redis.conf")  # fmt: skip
    if found.get("appendonly") == "no" and found.get("save") == "":
        yield warning(about, f"Redis keeps nothing on disk: a restart of it loses all {loses}",
                      "CONFIG SET appendonly yes, and in redis.conf")  # fmt: skip


def _clock(about: str, report: dict[str, Any]) -> Iterator[Finding]:
    offset = report["clock_offset_ms"]
    if offset is None:
        return
    if abs(offset) > CLOCK_MS:
        yield warning("clock", f"the clock of the {about} is {offset / 1000:+.1f} s off this host's",
                      "run NTP on both: eta, expires and schedules are wrong by that much")  # fmt: skip
    else:
        yield ok("clock", f"that of the {about} agrees within {CLOCK_MS / 1000:g} s")


def _visibility(app: Celery) -> Iterator[Finding]:
    late = [task.name for task in app.tasks.values() if task.acks_late]
    timeout = (app.conf.broker_transport_options or {}).get("visibility_timeout")
    if late and timeout is None:
        yield info(
            "visibility_timeout",
            "not set, and some tasks are acknowledged late: workers of Celery run one again that takes over an hour; "
            "ours renew what they hold",
            "while Celery's workers share the queues, set broker_transport_options visibility_timeout above the longest task",
        )


def _queue_types(app: Celery) -> Iterator[Finding]:
    declared = app.router.queues.topology()["queues"]
    classic = sorted(
        name for name, queue in declared.items() if (queue.get("arguments") or {}).get("x-queue-type") != "quorum"
    )
    if classic:
        yield info("queues", f"{_some(classic)}: classic, so on one node of a cluster: messages are gone with its disk",
                   "in a cluster, set task_default_queue_type to quorum (for new queues)")  # fmt: skip
    soft = sorted(name for name, queue in declared.items() if queue.get("durable") is False)
    if soft:
        yield warning("queues", f"{_some(soft)}: not durable, so a restart of the server loses them",
                      "declare them with durable=True")  # fmt: skip


def other_broker(app: Celery) -> Iterator[Finding]:
    """The one that workers read from, if that is another."""
    from celeriac.bin.connect import client_for

    url = app.broker_read_url_effective
    if url == app.broker_url_effective:
        return
    client = client_for(app, url)
    try:
        client.examine_broker()
        yield ok("broker to read from", f"{without_password(url)} is reached, and lets us in")
    except (OperationalError, ImproperlyConfigured) as exc:
        yield error("broker to read from", without_password(str(exc)), "is broker_read_url right?")
    finally:
        client.close()


# -- queues and workers


def queues(app: Celery, report: dict[str, Any]) -> Iterator[Finding]:
    """What waits, and whether anyone takes it."""
    statuses = {status["name"]: status for status in app.client.queues()}
    missing = sorted(set(app.router.queues.topology()["queues"]) - set(statuses))
    if missing:
        yield info("queues", f"{_some(missing)}: not there yet", "the first message or worker declares them")
    waiting = {name: status["ready"] for name, status in statuses.items() if status["ready"]}
    yield from _unconsumed(waiting, report)
    dead = {name: status["dead"] for name, status in statuses.items() if status["dead"]}
    if dead:
        yield warning(
            "dead letters",
            ", ".join(f"{count} of {name}" for name, count in sorted(dead.items())[:NAMED]),
            "app.client.dead_letters() lists them with their reasons; the logs of the workers have them too",
        )


def _unconsumed(waiting: dict[str, int], report: dict[str, Any]) -> Iterator[Finding]:
    consumers, held = report["consumers"], report["workers"]
    if consumers is not None:
        alone = {name: count for name, count in waiting.items() if not consumers.get(name)}
    else:
        alone = waiting if held == 0 else {}
    if alone:
        text = ", ".join(f"{count} in {name}" for name, count in sorted(alone.items())[:NAMED])
        who = "has a consumer" if consumers is not None else "is consumed by a worker of celeriac"
        yield warning(
            "queues", f"messages wait, and no queue of these {who}: {text}", "start a worker with -Q and these names"
        )
    elif waiting:
        yield ok(
            "queues", "messages wait: " + ", ".join(f"{n} in {name}" for name, n in sorted(waiting.items())[:NAMED])
        )
    if held is not None:
        yield info("workers", f"{held} of celeriac hold a lease here")


def workers(app: Celery, timeout: float) -> Iterator[Finding]:
    """Those that answer a ping, ours and Celery's."""
    ping = getattr(app.control, "ping", None)
    if ping is None:
        return  # This version asks nobody.
    replies = ping(timeout=timeout)
    names = sorted(name for reply in replies or () for name in reply)
    if names:
        yield ok("workers", f"{_some(names)} answered a ping")
    else:
        yield info("workers", f"none answered a ping within {timeout:g} s")


# -- results


def results(app: Celery, report: dict[str, Any] | None) -> Iterator[Finding]:
    """The result backend, and whether what it keeps has an end."""
    conf, url = app.conf, app.result_backend_effective
    wanting = [
        task.name
        for task in app.tasks.values()
        if not task.ignore_result and not task.name.startswith(("celery.", "celeriac."))
    ]
    if app.has_own_backend:
        try:
            backend = app.backend
        except ImproperlyConfigured as exc:
            yield error("result backend", str(exc), "is its package installed?")
        else:
            yield ok("result backend", f"{qualname(type(backend))}, written in Python, is there")
        return
    if url is None:
        if wanting and not conf.task_ignore_result:
            yield info("result backend", f"there is none, and {_some(sorted(wanting))} may be asked for a result",
                       "set result_backend, or task_ignore_result to say that it is meant")  # fmt: skip
        return
    try:
        found = app.client.examine_backend()
    except (OperationalError, ImproperlyConfigured) as exc:
        yield error("result backend", without_password(str(exc)), "is result_backend right, and does the server run?")
        return
    version = f" (version {found['version']})" if found["version"] else ""
    yield ok("result backend", f"{without_password(url)}{version} is reached, and lets us in")
    if report is None or found["settings"] != report["settings"]:
        yield from _server("result backend", found["settings"], loses="results")
    if not _seconds(conf.result_expires):
        yield warning("result_expires", "results are kept for ever, and the store grows without end",
                      "set result_expires (a day is Celery's default)")  # fmt: skip


def outbox(app: Celery) -> Iterator[Finding]:
    """Whether what transactions have left for the broker gets there."""
    from celeriac.app.outbox.relay import Relay

    shown = without_password(app.conf.outbox_url)
    try:
        with closing(Relay.of_url(app, app.conf.outbox_url)) as relay:
            waiting, age, refused = relay.backlog()
    except Exception as exc:
        first = str(exc).splitlines()[0] if str(exc) else repr(exc)
        yield error("outbox", f"{shown} cannot be read: {first}", "is outbox_url right, and is the table made (outbox-relay --create-table)?")  # fmt: skip
        return
    if refused:
        yield warning("outbox", f"{refused} rows of {shown} were refused", "their column `error` says why")
    if age > OUTBOX_SECONDS:
        yield warning("outbox", f"{waiting} rows of {shown} wait, the oldest for {age:.0f} s",
                      "run a relay: worker --outbox, or outbox-relay")  # fmt: skip
    else:
        yield ok("outbox", f"{shown} is reached, {waiting} rows wait")


def _seconds(value: Any) -> float:
    total = getattr(value, "total_seconds", None)
    return float(total() if total else value or 0)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
