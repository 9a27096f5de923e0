"""Calls that are sent only if they get a key: idempotent, unique, debounced and throttled ones.

Whether a call gets its key is decided by the store, in one step with the publish where messages and keys are in one store
(`src/keys.rs` says what happens elsewhere). Here options become what the store is asked, and its answer becomes a result.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celeriac._core import Publication
from celeriac.exceptions import DuplicateTask, OperationalError
from celeriac.serialization import registry
from celeriac.serialization.json import dumps as json_dumps

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.own import Call
    from celeriac.app.send import KeyedMessage, Message

__all__ = ["MOMENTS", "Admission", "apublish", "entry_options", "publish", "refuse_in_workflow"]

#: Values of `unique`: until when the key is held.
MOMENTS = ("queued", "started", "finished")
#: Values of `on_duplicate`.
_ON_DUPLICATE = ("return", "raise")
#: One of these says what the key is for.
_PURPOSES = ("idempotency_key", "unique", "debounce", "throttle")
#: Options that say more about one of them.
_DETAILS = {
    "idempotency_ttl": ("idempotency_key",),
    "unique_key": ("unique", "debounce", "throttle"),
    "unique_ttl": ("unique",),
    "on_duplicate": ("idempotency_key", "unique", "throttle"),
    "debounce_max_wait": ("debounce",),
    "unique_turn": ("unique",),
}
_DAY = 24 * 3600.0
_HOUR = 3600.0
#: Keys longer than this are hashed.
_LONG = 200
#: Debounced calls that meet others which begin a new time of waiting try so often.
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Admission:
    """What a call wants a key for."""

    key: str
    #: Of the call; a repeated attempt has the same.
    token: str
    #: Seconds after which the key is free whatever happened.
    ttl: float
    raises: bool = False
    #: Seconds by which the message is put off, with every call.
    debounce: float | None = None
    #: Seconds by which it is put off at the most.
    longest: float | None = None

    def wanted(self, task_id: str) -> tuple[str, str, int | None, str, str, int]:
        """As the engine takes it."""
        longest = None if self.longest is None else _ms(self.longest)
        kind = "h" if self.debounce is None else "d"
        return self.key, kind, longest, task_id, self.token, _ms(self.ttl)


# -- options


def write_idempotency_key(call: Call, value: Any) -> None:
    """`idempotency_key`: a text, or a function of the arguments that gives one."""
    if _purpose(call) == "idempotency_key":
        ttl = _seconds(call, "idempotency_ttl", _DAY)
        _admit(call, _named(call, "idempotency_key", value), "key", ttl)


def write_unique(call: Call, value: Any) -> None:
    """`unique`: until when no other of its key is sent."""
    if value is not False and value not in MOMENTS:
        raise ValueError(f"unique is one of {', '.join(map(repr, MOMENTS))}, not {value!r}")
    if _purpose(call) == "unique":
        key = _key_of_arguments(call)
        turn = f"{call.name}:turn:{key}" if call.own.get("unique_turn") else None
        _admit(call, key, "unique", _seconds(call, "unique_ttl", _HOUR), until=value, turn=turn)


def write_debounce(call: Call, value: Any) -> None:
    """`debounce`: seconds by which each call puts the task off."""
    if _purpose(call) != "debounce":
        return
    options = call.options
    wait = _seconds(call, "debounce", 0.0)
    longest = None
    if call.own.get("debounce_max_wait") is not None:
        longest = _seconds(call, "debounce_max_wait", 0.0)
        if longest < wait:
            raise ValueError(f"debounce_max_wait ({longest:g} s) is at least as long as debounce ({wait:g} s)")
    if options.get("countdown") or options.get("eta"):
        raise ValueError("debounce says when the task runs: leave out countdown and eta")
    if options.get("task_id"):
        raise ValueError("debounced calls share one id, which is made up: leave out task_id")
    if call.app.conf.values_now()["task_protocol"] == 1:
        raise ValueError("debounce needs task_protocol 2")
    options["countdown"] = wait
    # A message that a long backlog holds up is still the last one.
    _admit(call, _key_of_arguments(call), "debounce", wait + (longest or 0.0) + _DAY, debounce=wait, longest=longest)


def write_throttle(call: Call, value: Any) -> None:
    """`throttle`: seconds within which no other call is sent."""
    if _purpose(call) == "throttle":
        _admit(call, _key_of_arguments(call), "throttle", _seconds(call, "throttle", 0.0))


def write_detail(call: Call, value: Any) -> None:
    """An option that says more about one of the others.

    Raises:
        ValueError: None of those is there.
    """
    for detail, purposes in _DETAILS.items():
        if call.own.get(detail) is not None and call.own.keys().isdisjoint(purposes):
            raise ValueError(f"{detail} says more about {' or '.join(purposes)}, which the call does not have")
    how = call.own.get("on_duplicate")
    if how is not None and how not in _ON_DUPLICATE:
        raise ValueError(f"on_duplicate is 'return' or 'raise', not {how!r}")


def _purpose(call: Call) -> str | None:
    """The one option that counts: a call's own choice takes the place of its task's. None: it is turned off."""
    given = [name for name in _PURPOSES if call.own.get(name) not in (None, False)]
    if len(given) > 1 and call.task is not None:
        of_task = call.task._own
        given = [name for name in given if call.own[name] is not of_task.get(name)] or given
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} cannot be combined: a call has one key")
    return given[0] if given else None


def _admit(
    call: Call,
    key: str,
    what: str,
    ttl: float,
    *,
    until: str | None = None,
    turn: str | None = None,
    debounce: float | None = None,
    longest: float | None = None,
) -> None:
    name = f"{call.name}:{what}:{key}"
    token = os.urandom(9).hex()
    member: dict[str, Any] = {"key": name, "token": token, "ttl_ms": _ms(ttl)}
    if until is not None:
        member["until"] = until
    if turn is not None:
        member["turn"] = turn
    if debounce is not None:
        member["debounced"] = True
    call.members["unique"] = member
    raises = call.own.get("on_duplicate") == "raise"
    call.options["_admission"] = Admission(name, token, ttl, raises, debounce, longest)


def _key_of_arguments(call: Call) -> str:
    given = call.own.get("unique_key")
    if given is not None:
        return _named(call, "unique_key", given)
    args, kwargs = list(call.args or ()), dict(sorted((call.kwargs or {}).items()))
    serializer = call.options.get("serializer") or call.app.conf.values_now()["task_serializer"]
    data = json_dumps([args, kwargs]) if serializer == "json" else registry.dumps((args, kwargs), serializer)[2]
    return hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()[:32]


def _named(call: Call, option: str, given: Any) -> str:
    key = given(*(call.args or ()), **(call.kwargs or {})) if callable(given) else given
    if not isinstance(key, str) or not key:
        raise TypeError(f"{option} is a text, or a function of the arguments that gives one, not {key!r}")
    if len(key) <= _LONG:
        return key
    return hashlib.sha256(key.encode()).hexdigest()


def _seconds(call: Call, option: str, default: float) -> float:
    value = call.own.get(option)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise ValueError(f"{option} is a number of seconds above 0, not {value!r}")
    return float(value)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


# -- sending


def publish(app: Celery, admission: Admission, message: KeyedMessage, how: tuple[Any, Any]) -> bool:
    """Sends a message if its call gets its key; else it gets the id of the call that has it.

    Returns:
        Whether it was sent.

    Raises:
        DuplicateTask: Another call has the key, and `on_duplicate` says so.
        OperationalError: The broker, or the result backend that keeps the keys, does not answer.
    """
    timeout, retry = how
    for _ in range(_TRIES):
        wanted = admission.wanted(message.id)
        other = app.client.publish_admitted(message.publication, wanted, timeout, retry, not message.ignores)
        if _is_answered(admission, message, other):
            return other is None
    raise _crowded(admission)


async def apublish(app: Celery, admission: Admission, message: KeyedMessage, how: tuple[Any, Any]) -> bool:
    """The same for a coroutine."""
    from celeriac.result import _aio

    timeout, retry = how
    client, results = app.client, not message.ignores
    for _ in range(_TRIES):
        wanted, publication = admission.wanted(message.id), message.publication

        def start(at: Any, token: int, publication: Publication = publication, wanted: Any = wanted) -> None:
            client.publish_admitted_later(publication, wanted, timeout, retry, results, at, token)

        other: Any = await _aio.call(start)
        if _is_answered(admission, message, other):
            return other is None
    raise _crowded(admission)


def _is_answered(admission: Admission, message: KeyedMessage, other: tuple[str, int | None] | None) -> bool:
    """Whether that was the last word. Else the message was made one that belongs to the others."""
    if other is None:
        return True
    task_id, limit_ms = other
    if admission.debounce is not None:
        _join(message, admission.debounce, task_id, limit_ms)
        return False
    if admission.raises:
        raise DuplicateTask(message.task, task_id)
    message.id, message.deduplicated = task_id, True
    return True


def _join(message: KeyedMessage, wait: float, task_id: str, limit_ms: int | None) -> None:
    """Gives a message the id of those before it, and the moment that is left to it."""
    before, old = message.publication, message.id
    due_ms = time.time_ns() // 1_000_000 + _ms(wait)
    if limit_ms is not None:
        due_ms = min(due_ms, limit_ms)
    headers, properties = dict(before.headers), dict(before.properties)
    headers["id"], headers["eta"] = task_id, datetime.fromtimestamp(due_ms / 1000, UTC).isoformat()
    if headers.get("root_id") == old:
        headers["root_id"] = task_id
    properties["correlation_id"] = task_id
    message.publication = Publication(
        headers,
        properties,
        before.body,
        exchange=before.exchange,
        routing_key=before.routing_key,
        due_ms=due_ms,
        declare=before.declare,
    )
    message._headers = headers
    message.id, message.deduplicated = task_id, True


def _crowded(admission: Admission) -> OperationalError:
    return OperationalError(f"the debounced call of key {admission.key!r} met a new wait of others {_TRIES} times")


def refuse_in_workflow(message: Message) -> None:
    """A member of a workflow cannot be another call's: what follows waits for its own id.

    Raises:
        ValueError: Always.
    """
    raise ValueError(
        f"task {message.task} is called with an idempotency key, unique, debounce or throttle, and as a member of a chain, "
        "group or chord, which waits for a result of its own: call it by itself, or turn the option off for this "
        "signature (unique=False)"
    )


# -- periodic tasks


def entry_options(options: Mapping[str, Any], name: str, due_ms: int | None = None) -> dict[str, Any]:
    """The call options of a periodic task: its `overlap` and `jitter` said in those of calls.

    Args:
        options: Of the entry.
        name: Of the entry.
        due_ms: The moment; None: it is sent beside its moments, now.

    Raises:
        ValueError: One of them makes no sense.
    """
    made = dict(options)
    overlap, jitter = made.pop("overlap", None), made.pop("jitter", None)
    if overlap is not None:
        if overlap not in ("skip", "queue"):
            raise ValueError(f"overlap of {name!r} is 'skip' or 'queue', not {overlap!r}")
        made.update(unique="finished" if overlap == "skip" else "started", unique_key=f"beat:{name}")
        made.update(on_duplicate="raise", unique_turn=overlap == "queue" or None)
    if jitter is not None:
        if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or jitter < 0:
            raise ValueError(f"jitter of {name!r} is a number of seconds, not {jitter!r}")
        if due_ms is not None and jitter:
            # By the moment alone, so that all beats find the same.
            digest = hashlib.sha256(f"{name}/{due_ms}".encode()).digest()
            wait = jitter * int.from_bytes(digest[:6], "big") / (1 << 48)
            made["eta"] = datetime.fromtimestamp(due_ms / 1000 + wait, UTC)
    return made
