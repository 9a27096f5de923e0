"""What clients do, and what they see of it. Each case sends, yields, and then gives what it saw."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
import uuid
from collections import defaultdict

import interop_app as tasks
from interop_app import FOLDER, app, library, notes, wait_for
from interop_values import VALUES

CASES = {}
#: Ids of the tasks of each case, in the order in which they were sent.
IDS: dict[str, list[str]] = defaultdict(list)
TIMEOUT = 20
RPC = app.conf.result_backend == "rpc://"


def case(function):
    """Registers a case."""
    CASES[function.__name__] = function
    return function


def sent(name, result):
    """Remembers the id of a result."""
    IDS[name].append(result.id)
    return result


def plain(value):
    """As JSON, with the types that JSON does not have."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) < 2**53 else {"int": str(value)}
        case float():
            return value if math.isfinite(value) and value != 0 else {"float": repr(value)}
        case list():
            return [plain(item) for item in value]
        case tuple():
            return {"tuple": [plain(item) for item in value]}
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case BaseException():
            return raised(value)
        case bytes() | dt.datetime() | dt.date() | dt.time() | decimal.Decimal() | uuid.UUID():
            return {type(value).__name__: repr(value)}
        case _:
            return {"other": f"{type(value).__module__}.{type(value).__qualname__}"}


def raised(exc):
    """An exception: its class, its arguments, and what caused it."""
    kind = type(exc)
    return {
        "class": neutral(f"{kind.__module__}.{kind.__qualname__}"),
        "bases": [base.__name__ for base in kind.__mro__[1:-1]],
        "args": plain(list(exc.args)),
        "cause": raised(exc.__cause__) if exc.__cause__ else None,
    }


def neutral(text):
    """The same without the library's name: celeriac's exceptions are in one module, Celery's in three packages."""
    return re.sub(r"\b(celeriac|celery|kombu|billiard)(\.\w+)*\.(?=[A-Z])", "<library>.", text)


def outcome(result, timeout=TIMEOUT):
    """What waiting for a result gives, and what the result then says of itself."""
    seen = {}
    try:
        seen["value"] = plain(result.get(timeout=timeout))
    except (Exception, SystemExit) as exc:
        seen["raised"] = raised(exc)
    seen["state"] = result.state
    seen["info"] = plain(result.info)
    seen["flags"] = [result.ready(), result.successful(), result.failed()]
    seen["traceback"] = shape(result.traceback)
    seen["date_done"] = type(result.date_done).__name__
    return seen


def shape(traceback):
    """A traceback without files of the library and without line numbers."""
    if not traceback:
        return traceback
    traceback = neutral(traceback)
    kept = []
    for line in traceback.rstrip().splitlines():
        if line.startswith("  File"):
            if "interop_app" in line:
                kept.append(line.rpartition(" in ")[2])
        elif not line.startswith("    "):
            kept.append(line)
    return kept


def ran(key, count=1):
    """Waits for the notes of tasks."""
    return wait_for(lambda: notes(key) if len(notes(key)) >= count else None, f"{count} notes of {key}")


def go_on(key):
    (FOLDER / f"go-{key}").touch()


def simple(name, /, *args, task, options=None, **kwargs):
    """A case that sends one task."""

    def run():
        result = sent(name, task.apply_async(args, kwargs, **(options or {})))
        yield
        return outcome(result)

    CASES[name] = run


# --- arguments and results --------------------------------------------------------------------------------------

for value_name, value in VALUES.items():
    if value_name != "int_keys":
        simple(f"argument {value_name}", value, task=tasks.echo, k=value)
simple("argument int_keys", VALUES["int_keys"], task=tasks.echo)
simple(
    "types as the task sees them",
    task=tasks.typed,
    **{name: value for name, value in VALUES.items() if name not in ("lone", "wide", "long", "int_keys")},
)
for value_name in VALUES:
    simple(f"result {value_name}", value_name, task=tasks.returns)
simple("a result that cannot be encoded", task=tasks.unserializable)
simple("no arguments", task=tasks.echo)
simple("keyword arguments", 1, task=tasks.default, y=5, z=6)
simple("arguments that shadow", task=tasks.echo, args=[2], kwargs={"k": 3}, task_id="x", name="n")


@case
def by_name():
    name = "by_name"
    results = [
        sent(name, app.send_task("interop.add", (1, 2))),
        sent(name, app.send_task("interop.add", kwargs={"x": 1, "y": 2}, task_id=f"chosen-{uuid.uuid4()}")),
        sent(name, app.signature("interop.add", args=(3,)).delay(4)),
    ]
    yield
    return [outcome(result) for result in results]


@case
def an_unknown_task():
    result = sent("an_unknown_task", app.send_task("no.such.task", (1,)))
    yield
    return outcome(result)


@case
def many():
    results = [sent("many", tasks.add.delay(n, n)) for n in range(100)]
    yield
    return [result.get(timeout=TIMEOUT) for result in results]


# --- serializers and compression --------------------------------------------------------------------------------

simple(
    "pickled",
    task=tasks.typed,
    options={"serializer": "pickle"},
    a=b"\xff",
    b=dt.datetime(2024, 1, 1),
    c=(1, 2),
    d=decimal.Decimal("1.1"),
)


@case
def pickled_what_json_cannot():
    if app.conf.result_extended:  # Celery's worker cannot store the arguments then, and stores nothing
        yield
        return None
    result = sent("pickled_what_json_cannot", tasks.typed.apply_async((), {"a": {1}, "b": 3j}, serializer="pickle"))
    yield
    return outcome(result)


simple("yaml", 1, "two", [3.5, None], task=tasks.echo, k={"a": True}, options={"serializer": "yaml"})
simple("msgpack", 1, "two", [3.5, None], task=tasks.echo, k={"a": True}, options={"serializer": "msgpack"})
for method in ("gzip", "zlib", "bzip2", "zstd"):
    simple(f"compressed by {method}", "x" * 5_000, task=tasks.echo, k="\u2603", options={"compression": method})
simple("pickled and compressed", "x" * 5_000, task=tasks.echo, options={"compression": "gzip", "serializer": "pickle"})


# --- what the task is told --------------------------------------------------------------------------------------

simple("request", 1, "two", task=tasks.request, k=[3])
simple("request with headers", task=tasks.request, options={"headers": {"tenant": "acme", "n": 1}})
simple("request with shadow", task=tasks.request, options={"shadow": "another name"})
simple("request with limits", task=tasks.request, options={"time_limit": 300, "soft_time_limit": 200})
simple("request with reprs", "secret", task=tasks.request, options={"argsrepr": "(<hidden>)", "kwargsrepr": "{}"})
simple("request with priority", task=tasks.request, options={"priority": 5})
simple("request with long arguments", "x" * 3_000, list(range(500)), task=tasks.request)


@case
def request_with_expiry():
    # RabbitMQ takes no expiry beyond 49 days.
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(days=20)
    result = sent("request_with_expiry", tasks.request.apply_async(expires=expires))
    yield
    value = result.get(timeout=TIMEOUT)
    return [value.pop("expires") == expires.isoformat(), plain(value)]


@case
def request_with_eta():
    past = dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    result = sent("request_with_eta", tasks.request.apply_async(eta=past))
    naive = sent("request_with_eta", tasks.request.apply_async(eta=dt.datetime(2020, 1, 2, 3, 4, 5)))
    yield
    return [outcome(result), outcome(naive)]


simple(
    "request with stamps",
    task=tasks.request,
    options={"headers": {"stamps": {"trace": ["abc"]}, "stamped_headers": ["trace"]}},
)


# --- errors -----------------------------------------------------------------------------------------------------

KINDS = ("value", "custom", "odd", "nested", "other", "unserializable", "cause", "key", "os", "unicode", "no arguments")
for kind in KINDS:
    simple(f"error {kind}", kind, task=tasks.boom)
simple("late error", task=tasks.late_boom)


@case
def error_that_is_not_propagated():
    result = sent("error_that_is_not_propagated", tasks.boom.delay("custom"))
    yield
    return [plain(result.get(timeout=TIMEOUT, propagate=False)), result.state]


@case
def wrong_arguments_from_a_caller_without_code():
    result = sent("wrong_arguments_from_a_caller_without_code", app.send_task("interop.add", (1, 2, 3)))
    yield
    return outcome(result)


# --- retries ----------------------------------------------------------------------------------------------------

simple("retried", 2, task=tasks.retried)
simple("retried at once", 2, task=tasks.retried, countdown=0)
simple("retried with other arguments", 1, task=tasks.retried_changed, key="k")
simple("exhausted with an exception", True, task=tasks.exhausted)
simple("exhausted without one", False, task=tasks.exhausted)
simple("retried by itself", 2, task=tasks.auto)
simple("retried by itself in vain", 9, task=tasks.auto)


@case
def a_retry_that_waits():
    name = "a_retry_that_waits"
    result = sent(name, tasks.retries_for_long.delay())
    yield
    if RPC:
        return None
    wait_for(lambda: result.state == "RETRY", "RETRY")
    return [result.state, plain(result.info), shape(result.traceback)]


# --- times ------------------------------------------------------------------------------------------------------


@case
def countdown():
    began = dt.datetime.now(dt.UTC)
    result = sent("countdown", tasks.request.apply_async(countdown=1.5))
    yield
    seen = outcome(result)
    eta = dt.datetime.fromisoformat(seen["value"].pop("eta"))
    seen["info"].pop("eta")
    return [seen, eta.utcoffset() == dt.timedelta(), 1.4 < (eta - began).total_seconds() < 2.5]


@case
def eta_with_a_zone():
    zone = dt.timezone(dt.timedelta(hours=5, minutes=30))
    result = sent("eta_with_a_zone", tasks.add.apply_async((1, 1), eta=dt.datetime.now(zone) + dt.timedelta(seconds=1)))
    yield
    return outcome(result)


@case
def expired_while_it_waited():
    if RPC:  # Celery's worker sends no record then
        yield
        return None
    # The worker has it by then: RabbitMQ drops what expires in a queue, and nobody learns of it.
    result = sent("expired_while_it_waited", tasks.add.apply_async((1, 1), countdown=6, expires=5))
    yield
    return outcome(result)


@case
def not_expired():
    result = sent("not_expired", tasks.add.apply_async((1, 1), expires=60))
    yield
    return outcome(result)


# --- states -----------------------------------------------------------------------------------------------------


@case
def custom_state():
    result = sent("custom_state", tasks.progress.delay("progress"))
    yield
    if not RPC:  # whoever looks at the queue first has read a state, and Celery keeps it for nobody else
        wait_for(lambda: result.state == "PROGRESS", "PROGRESS")
    seen = [None if RPC else plain(result.info), result.ready()]
    go_on("progress")
    return [*seen, outcome(result)]


@case
def started_state():
    result = sent("started_state", tasks.tracked.delay("tracked"))
    yield
    if not RPC:
        wait_for(lambda: result.state == "STARTED", "STARTED")
    info = {} if RPC else result.info
    go_on("tracked")
    return [{name: type(value).__name__ for name, value in info.items()}, outcome(result)]


@case
def nothing_known():
    yield
    result = app.AsyncResult(str(uuid.uuid4()))
    seen = [result.state, result.info, result.ready()]
    try:
        result.get(timeout=0.3)
    except Exception as exc:
        seen.append(raised(exc)["class"])
    return seen


@case
def ignored_result():
    results = [
        sent("ignored_result", tasks.quiet.delay("quiet")),
        sent("ignored_result", tasks.noted.apply_async(("x", "quiet"), ignore_result=True)),
    ]
    yield
    return [sorted(ran("quiet", 2)), [result.state for result in results]]


@case
def ignored_task():
    result = sent("ignored_task", tasks.ignored.delay("ignored"))
    yield
    ran("ignored")
    if RPC:
        return None
    wait_for(lambda: result.state == "KEPT", "KEPT")
    return [result.state, plain(result.info)]


simple("rejected", task=tasks.rejected)
simple("rejected late", task=tasks.rejected_late)
simple("requeued late", "requeued", task=tasks.requeued_late)
simple("late", 5, task=tasks.late)


# --- limits -----------------------------------------------------------------------------------------------------

simple("soft limit", 30, task=tasks.sleepy, options={"soft_time_limit": 1, "time_limit": 20})
simple("soft limit that is caught", 30, task=tasks.catches, options={"soft_time_limit": 1, "time_limit": 20})
simple("hard limit", 30, task=tasks.sleepy, options={"time_limit": 1})


# --- control ----------------------------------------------------------------------------------------------------


@case
def revoked_while_it_waits():
    result = sent("revoked_while_it_waits", tasks.noted.apply_async(("x", "revoked"), countdown=4))
    result.revoke()
    yield
    return [outcome(result), notes("revoked")]


@case
def revoked_while_it_runs():
    result = sent("revoked_while_it_runs", tasks.sleepy.delay(30, "terminated"))
    yield
    ran("terminated")
    result.revoke(terminate=True)
    return outcome(result)


# --- what follows -----------------------------------------------------------------------------------------------


@case
def links():
    ids = [str(uuid.uuid4()) for _ in range(3)]
    result = tasks.add.apply_async(
        (2, 2),
        link=[
            tasks.noted.s("link-1").set(task_id=ids[0]),
            tasks.noted.si("fixed", "link-2").set(task_id=ids[1]),
        ],
    )
    sent("links", result)
    one = sent("links", tasks.add.apply_async((3, 3), link=tasks.noted.s("link-3").set(task_id=ids[2])))
    yield
    return [outcome(result), outcome(one), ran("link-1"), ran("link-2"), ran("link-3")]


@case
def errbacks():
    name = "errbacks"
    old = sent(name, tasks.boom.apply_async(("value",), link_error=tasks.errback_old.s("errback-old")))
    new = sent(name, tasks.boom.apply_async(("value",), link_error=tasks.errback_new.s(key="errback-new")))
    both = sent(
        name,
        tasks.boom.apply_async(
            ("custom",),
            link_error=[tasks.errback_old.s(key="errback-both"), tasks.errback_new.s(key="errback-both")],
        ),
    )
    fine = sent(name, tasks.add.apply_async((1, 1), link_error=tasks.errback_old.s("errback-none")))
    yield
    seen = [outcome(one) for one in (old, new, both, fine)]
    ran("errback-both", 2)
    seen += [both.id in notes("errback-both")]  # which of the two came first is nobody's promise
    told = [ran("errback-old"), ran("errback-new"), len(notes("errback-both")), notes("errback-none")]
    return [seen, told]


@case
def chains():
    name = "chains"
    first = library.chain(tasks.add.s(1, 1), tasks.add.s(2), tasks.add.s(3)).apply_async()
    immutable = (tasks.add.s(1, 1) | tasks.add.si(5, 5)).apply_async()
    later = library.chain(tasks.add.s(1, 1), tasks.add.s(2).set(countdown=0.5)).apply_async()
    for result in (first, immutable, later):
        sent(name, result)
        while result.parent:
            result = result.parent
            sent(name, result)
    yield
    seen = []
    for result in (first, immutable, later):
        seen.append(outcome(result))
        if result.parent:
            seen.append(outcome(result.parent))
    return seen


@case
def a_chain_that_breaks():
    name = "a_chain_that_breaks"
    result = library.chain(tasks.add.s(1, 1), tasks.boom.si("custom"), tasks.noted.s("broken")).apply_async(
        link_error=tasks.errback_old.s("chain-error")
    )
    sent(name, result)
    sent(name, result.parent)
    yield
    return [outcome(result), outcome(result.parent), ran("chain-error") == [result.parent.id], notes("broken")]


simple("spawns", task=tasks.spawns)


# --- protocol 1 -------------------------------------------------------------------------------------------------


def speak(protocol):
    """Chooses the message protocol, and gives the one before. Celery remembers what it has built for one."""
    before = app.conf.task_protocol
    app.conf.task_protocol = protocol
    if hasattr(app, "amqp"):
        app.amqp.__dict__.pop("create_task_message", None)
    return before


@case
def protocol_1():
    name = "protocol_1"
    before = speak(1)
    try:
        results = [
            sent(name, tasks.echo.delay(1, "two", k=VALUES["datetime_utc"])),
            sent(name, tasks.boom.apply_async(("custom",), link_error=tasks.errback_old.s("errback-1"))),
            sent(name, tasks.add.apply_async((1, 1), link=tasks.noted.s("link-p1"), countdown=0.3, expires=60)),
            sent(name, tasks.retried.delay(1)),
            sent(name, tasks.request.apply_async((1,), {"k": 2})),
        ]
    finally:
        speak(before)
    yield
    return [[outcome(result) for result in results], ran("errback-1"), ran("link-p1")]


#: Tasks of these wait for the client or until it ends them: it looks at them first.
EARLY = ["custom_state", "started_state", "revoked_while_it_runs"]
