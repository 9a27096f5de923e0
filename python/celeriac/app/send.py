"""A call with its options becomes a message, and the message goes to the engine.

Headers, their order and the body are Celery's protocol 2; `protocol_1` makes the older form of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from celeriac._core import Publication, saferepr
from celeriac._state import get_current_worker_task
from celeriac.app import own, protocol_1, sizes, templates
from celeriac.exceptions import DuplicateTask, ImproperlyConfigured
from celeriac.serialization import registry
from celeriac.serialization.json import CONTENT_TYPE as JSON_TYPE
from celeriac.serialization.json import dumps as json_dumps
from celeriac.signals import after_task_publish, before_task_publish, task_sent
from celeriac.utils import uuid
from celeriac.utils.nodenames import anon_nodename
from celeriac.utils.time import maybe_iso8601, to_milliseconds

if TYPE_CHECKING:
    from celeriac.app.admission import Admission
    from celeriac.app.base import Celery
    from celeriac.app.middleware import Call, Hooks
    from celeriac.app.routes import Target
    from celeriac.app.task import Task

__all__ = ["Message", "build", "compose", "publish", "publish_later"]

#: The topic exchange of events between services.
EVENTS = "celeriac.events"
#: Options that steer how we send and never reach the message.
_LOCAL_OPTIONS = frozenset(
    {
        "add_to_parent",
        "confirm_timeout",
        "connection",
        "declare",
        "exchange",
        "exchange_type",
        "immediate",
        "immutable",
        "mandatory",
        "producer",
        "publisher",
        "queue",
        "result_cls",
        "retry",
        "retry_policy",
        "router",
        "routing_key",
        "task_type",
        "timeout",
    }
)
#: Attempts after the first, seconds before the first of these, seconds more before each, and at the most.
Retry = tuple[int | None, float, float, float | None]

_COMPRESSION = {
    "gzip": "application/x-gzip",
    "zlib": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "bzip": "application/x-bz2",
    "zstd": "application/zstd",
    "zstandard": "application/zstd",
}
_TOO_FAR_BACK = -2147483648

# Ours and the process it belongs to; a fork makes the next sender write it anew.
_origin: tuple[int, str] = (0, "")


class Message:
    """A message ready to send, and what is asked of it afterwards."""

    __slots__ = ("_headers", "args", "embed", "id", "ignores", "kwargs", "publication", "task")

    #: The key that it needs to be sent; None without one.
    admission: Admission | None = None
    #: Its id is that of an earlier call.
    deduplicated = False

    def __init__(
        self,
        publication: Publication,
        task: str,
        task_id: str,
        ignores: Any,
        content: tuple[Any, Any, dict[str, Any] | None],
        headers: dict[str, Any] | None = None,
    ) -> None:
        self.publication = publication
        self.task = task
        self.id = task_id
        #: Whether its result is ignored, as far as is known.
        self.ignores = ignores
        self.args, self.kwargs, self.embed = content
        self._headers = headers

    @property
    def headers(self) -> dict[str, Any]:
        """The headers before they were encoded."""
        return self.publication.headers if self._headers is None else self._headers

    @property
    def body(self) -> tuple[Any, Any, dict[str, Any]]:
        """The body before it was encoded."""
        return self.args, self.kwargs, _embed({}) if self.embed is None else self.embed


class KeyedMessage(Message):
    """A message that is sent only if its call gets a key."""

    __slots__ = ("admission", "deduplicated")

    def __init__(self, message: Message, admission: Admission | None) -> None:
        content = message.args, message.kwargs, message.embed
        super().__init__(message.publication, message.task, message.id, message.ignores, content, message._headers)
        self.admission = admission
        self.deduplicated = False


class HookedMessage(KeyedMessage):
    """A message of a call that has middleware, which is told how publishing it ends."""

    __slots__ = ("_call", "_hooks")

    def __init__(self, message: Message, hooks: Hooks, call: Call) -> None:
        super().__init__(message, message.admission)
        self._hooks = hooks
        self._call = call

    def ended(self, exception: BaseException | None) -> None:
        """It was published, or it was not."""
        self._hooks.published(self._call, exception)

    async def aended(self, exception: BaseException | None) -> None:
        """The same for a coroutine."""
        await self._hooks.apublished(self._call, exception)


def build(
    app: Celery,
    name: str,
    args: Any = None,
    kwargs: Any = None,
    *,
    task: Task[..., Any] | None = None,
    **options: Any,
) -> Publication:
    """Builds the message of a call without sending it. The id is its header `id`."""
    return compose(app, name, args, kwargs, task, options).publication


def compose(
    app: Celery, name: str, args: Any, kwargs: Any, task: Task[..., Any] | None, options: dict[str, Any]
) -> Message:
    """Builds a message; takes `options` over and empties it.

    Raises:
        EncodeError: The serializer refuses an argument.
        TypeError, ValueError: Arguments or options that cannot be sent.
    """
    args = () if args is None else args
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(args, (list, tuple)):
        raise TypeError("task args must be a list or tuple")
    if not isinstance(kwargs, Mapping):
        raise TypeError("task keyword arguments must be a mapping")
    parent = get_current_worker_task()
    simple = task is not None and not task._own and (not options or options.keys() <= templates.VARYING)
    if simple and task is not None and not before_task_publish.receivers:
        held = task._template
        if held is not None and held.serves(app, name):
            found = _fill(app, held, task, (args, kwargs), parent, options)
            if found is not None:
                return found
    hooks = publish_hooks(app, task)
    if hooks is not None:
        return hooks.compose(app, name, args, kwargs, task, options, _compose)
    return _compose(app, name, args, kwargs, task, options, simple=simple)


async def compose_later(
    app: Celery, name: str, args: Any, kwargs: Any, task: Task[..., Any] | None, options: dict[str, Any]
) -> Message:
    """`compose` for a coroutine: hooks of middleware are awaited."""
    hooks = publish_hooks(app, task)
    if hooks is None:
        return compose(app, name, args, kwargs, task, options)
    return await hooks.acompose(app, name, args, kwargs, task, options, _compose)


def publish_hooks(app: Celery, task: Task[..., Any] | None) -> Hooks | None:
    """The middleware that wants to know of calls of this task; None without any."""
    if not (app._middleware or app.conf.values_now()["task_middleware"] or getattr(task, "middleware", ())):
        return None
    from celeriac.app import middleware

    hooks = middleware.of(app, task)
    return hooks if hooks is not None and hooks.publishes else None


def _compose(
    app: Celery,
    name: str,
    args: Any,
    kwargs: Any,
    task: Task[..., Any] | None,
    options: dict[str, Any],
    members: dict[str, Any] | None = None,
    *,
    simple: bool = False,
) -> Message:
    args = () if args is None else args
    kwargs = {} if kwargs is None else kwargs
    take = options.pop
    # A plain dict: attribute access to settings would be a third of what a call costs.
    conf = app.conf.values_now()
    parent = get_current_worker_task()
    if parent is not None:
        _inherit(conf, parent, options)
    if task is not None:
        for option in templates.TASK_OPTIONS:
            value = getattr(task, option)
            if value is not None and option not in options:
                options[option] = value
    admitted: Admission | None = None
    if (task is not None and task._own) or not own.OPTIONS.keys().isdisjoint(options):
        own.write(app, name, args, kwargs, task, options)
        admitted = take("_admission", None)
    if members:
        own.add(options, members)
    target = _route(app, conf, take("route_name", None) or name, args, kwargs, task, options)
    exchange, routing_key = target.exchange, target.routing_key
    embed = _embed(options)
    task_id = take("task_id", None) or uuid()
    eta, due_ms = _eta(app, take("countdown", None), take("eta", None))
    expires, expiration = _expires(app, take("expires", None))
    hard, soft = take("time_limit", None), take("soft_time_limit", None)
    if hard and soft and soft > hard:
        raise ValueError("soft_time_limit must be less than or equal to time_limit")
    stamped = take("stamped_headers", None)
    ignore_result = take("ignore_result", None)
    if ignore_result is None and task is not None:
        ignore_result = bool(task.ignore_result)
    levels = conf["task_repr_maxlevels"]
    headers = {
        "lang": "py",
        "task": name,
        "id": task_id,
        "shadow": take("shadow", None),
        "eta": eta,
        "expires": expires,
        "group": take("group_id", None),
        "group_index": take("group_index", None),
        "retries": take("retries", None) or 0,
        "timelimit": [hard, soft],
        "root_id": take("root_id", None) or task_id,
        "parent_id": take("parent_id", None),
        "argsrepr": take("argsrepr", None) or saferepr(args, app.argsrepr_maxsize, levels),
        "kwargsrepr": take("kwargsrepr", None) or saferepr(kwargs, app.kwargsrepr_maxsize, levels),
        "origin": take("origin", None) or _our_origin(),
        "ignore_result": ignore_result,
        "replaced_task_nesting": take("replaced_task_nesting", None) or 0,
        "stamped_headers": stamped,
        "stamps": {name: take(name) for name in stamped if name in options} if stamped else {},
    }
    serializer = take("serializer", None) or conf["task_serializer"]
    compression = take("compression", None) or conf["task_compression"]
    custom = take("headers", None)
    if custom:
        headers.update(custom)
    properties = _properties(app, conf, task_id, expiration, options)
    body: Any = (args, kwargs, embed)
    written = headers
    if conf["task_protocol"] == 1:
        simple = False
        body, written = protocol_1.body(headers, args, kwargs, embed), dict(custom or {})
    if before_task_publish.receivers:
        # What they change is their answer to this one call.
        simple = False
        before_task_publish.send(
            name,
            body=body,
            exchange=exchange,
            routing_key=routing_key,
            headers=written,
            properties=properties,
            declare=[],
            retry_policy=options.get("retry_policy"),
        )
    data = _encode(body, serializer, compression, written, properties)
    if len(data) > sizes.NEVER_TOO_LARGE:
        sizes.check_size(app, name, len(data), (args, kwargs, embed), serializer)
        # The engine makes HTTP calls, and reads no store of a user. An event is read by several services, and what is stowed
        # goes with the first that has read it.
        stows = name != "celeriac.http" and exchange != EVENTS
        if conf["large_payload_store"] and conf["task_protocol"] != 1 and stows:
            from celeriac.app import large

            data = large.stow(app, data, written, properties, due_ms)
            # Others are sent as they are.
            simple = False
    publication = Publication(
        written, properties, data, exchange=exchange, routing_key=routing_key, due_ms=due_ms, declare=target.declare
    )
    if simple and task is not None and serializer == "json":
        templates.learn(app, task, target, headers, properties)
    content = (args, kwargs, embed)
    message = Message(publication, headers["task"], headers["id"], headers["ignore_result"], content, headers)
    return message if admitted is None else KeyedMessage(message, admitted)


def _fill(
    app: Celery,
    held: templates.Held,
    task: Task[..., Any],
    content: tuple[Any, Any],
    parent: Task[..., Any] | None,
    options: Mapping[str, Any],
) -> Message | None:
    """The message of a call whose options, if any, are of those that vary; None when the template does not fit."""
    root_id = parent_id = reply_to = embed = None
    if options:
        get = options.get
        task_id = get("task_id") or uuid()
        root_id, parent_id, reply_to = get("root_id"), get("parent_id"), get("reply_to")
        if not options.keys().isdisjoint(templates.EMBEDDED):
            embed = _embed(dict(options))
    else:
        task_id = uuid()
    if parent is not None:
        request = parent.request
        root_id = root_id or request.root_id or request.id
        parent_id = parent_id or request.id
    args, kwargs = content
    publication = held.template.build(
        templates.values_of(task),
        task_id,
        root_id or task_id,
        parent_id,
        reply_to or app.thread_oid,
        args,
        kwargs,
        embed,
    )
    if publication is None:
        return None
    if publication.size > sizes.NEVER_TOO_LARGE:
        if app.conf.values_now()["large_payload_store"]:
            return None
        sizes.check_size(app, task.name, publication.size, (args, kwargs, embed), "json")
    return Message(publication, task.name, task_id, held.ignores, (args, kwargs, embed))


def _embed(options: dict[str, Any]) -> dict[str, Any]:
    """What the body says of messages that follow; takes it out of the options."""
    take = options.pop
    return {
        "callbacks": _as_list(take("link", None)),
        "errbacks": _as_list(take("link_error", None)),
        "chain": take("chain", None) or None,
        "chord": take("chord", None),
    }


def publish(app: Celery, message: Message, options: Mapping[str, Any]) -> None:
    """Sends a message, trying again on a lost connection as the policy says.

    Args:
        app: Whose broker.
        message: What `compose` made.
        options: `retry`, `retry_policy`, `timeout` and `confirm_timeout` of the call.

    Raises:
        OperationalError: The broker did not take it.
    """
    conf = app.conf.values_now()
    sent = True
    try:
        if conf["task_track_pending"]:
            from celeriac.app.pending import track_pending

            track_pending(app, [message.publication])
        if message.admission is None:
            app.client.publish([message.publication], *how(app, options), not message.ignores)
        else:
            from celeriac.app import admission

            assert isinstance(message, KeyedMessage)
            sent = admission.publish(app, message.admission, message, how(app, options))
    except BaseException as exc:
        if isinstance(message, HookedMessage):
            message.ended(exc)
        raise
    if not sent:
        if isinstance(message, HookedMessage):
            message.ended(DuplicateTask(message.task, message.id))
        return
    if conf["task_send_sent_event"]:
        app.events.task_sent(message.publication)
    _published(message)


async def publish_later(app: Celery, message: Message, options: Mapping[str, Any]) -> None:
    """The same for a coroutine: the event loop goes on meanwhile."""
    from celeriac.result import _aio

    client, (timeout, retry), wanted = app.client, how(app, options), not message.ignores
    sent = True
    try:
        if app.conf.values_now()["task_track_pending"]:
            import asyncio

            from celeriac.app.pending import track_pending

            await asyncio.to_thread(track_pending, app, [message.publication])
        if message.admission is None:
            await _aio.call(
                lambda at, token: client.publish_later([message.publication], timeout, retry, wanted, at, token)
            )
        else:
            from celeriac.app import admission

            assert isinstance(message, KeyedMessage)
            sent = await admission.apublish(app, message.admission, message, (timeout, retry))
    except BaseException as exc:
        if isinstance(message, HookedMessage):
            await message.aended(exc)
        raise
    if not sent:
        if isinstance(message, HookedMessage):
            await message.aended(DuplicateTask(message.task, message.id))
        return
    if app.conf.values_now()["task_send_sent_event"]:
        import asyncio

        # It waits for the broker, and the loop must not.
        await asyncio.to_thread(app.events.task_sent, message.publication)
    if isinstance(message, HookedMessage):
        await message.aended(None)
    _published(message)


def how(app: Celery, options: Mapping[str, Any]) -> tuple[float | None, Retry | None]:
    """How long publishing may take (None: as the settings say), and the further attempts; None: no further attempt."""
    conf = app.conf.values_now()
    timeout = wanted = given = None
    if options:
        get = options.get
        wanted, given, timeout = get("retry"), get("retry_policy"), get("timeout")
        confirm = get("confirm_timeout")
        if confirm is not None:
            timeout = confirm if timeout is None else min(timeout, confirm)
    if not (conf["task_publish_retry"] if wanted is None else wanted):
        return timeout, None
    policy = conf["task_publish_retry_policy"]
    if given:
        policy = {**policy, **given}
    get = policy.get
    limit = get("max_retries")
    start, step, longest = get("interval_start") or 0, get("interval_step") or 0, get("interval_max")
    # Without a limit of their own, attempts end with the time for the call.
    return timeout, (None if limit is None else int(limit), start, step, longest)


def _published(message: Message) -> None:
    if after_task_publish.receivers:
        publication = message.publication
        after_task_publish.send(
            message.task,
            body=message.body,
            headers=message.headers,
            exchange=publication.exchange,
            routing_key=publication.routing_key,
        )
    if task_sent.receivers:
        _tell_sent(message)
    if type(message) is not Message and isinstance(message, HookedMessage):
        message.ended(None)


def _tell_sent(message: Message) -> None:
    """The old signal that `after_task_publish` replaced."""
    args, kwargs = message.body[:2]
    headers = message.headers
    eta, group = headers.get("eta"), headers.get("group")
    task_sent.send(
        message.task, task_id=message.id, task=message.task, args=args, kwargs=kwargs, eta=eta, taskset=group
    )


def _inherit(conf: Mapping[str, Any], parent: Task[..., Any], options: dict[str, Any]) -> None:
    request = parent.request
    if not options.get("root_id"):
        options["root_id"] = request.root_id or request.id
    if not options.get("parent_id"):
        options["parent_id"] = request.id
    if conf["task_inherit_parent_priority"] and options.get("priority") is None:
        options["priority"] = (request.delivery_info or {}).get("priority")


def _route(
    app: Celery,
    conf: Mapping[str, Any],
    name: str,
    args: Any,
    kwargs: Any,
    task: Task[..., Any] | None,
    options: dict[str, Any],
) -> Target:
    router = app.router
    plain = not (options.get("queue") or options.get("exchange") or options.get("routing_key"))
    target = router.known.get(name) if plain else None
    if target is None:
        target = router.route(options, name, args, kwargs, task)
        if plain and router.static:
            router.known[name] = target
    for option, value in target.options.items():
        if options.get(option) is None:
            options[option] = value
    if options.get("priority") is None and conf["task_default_priority"] is not None:
        options["priority"] = conf["task_default_priority"]
    return target


def _properties(
    app: Celery, conf: Mapping[str, Any], task_id: str, expiration: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    """The properties; options that nobody else has taken become properties of their own."""
    take = options.pop
    properties: dict[str, Any] = {
        "correlation_id": task_id,
        "reply_to": take("reply_to", None) or app.thread_oid,
        "delivery_mode": _delivery_mode(take("delivery_mode", None) or conf["task_default_delivery_mode"]),
    }
    priority = take("priority", None)
    if priority is not None:
        properties["priority"] = int(priority)
    if expiration is not None:
        properties["expiration"] = expiration
    if options:
        properties.update({key: value for key, value in options.items() if key not in _LOCAL_OPTIONS})
    return properties


def _encode(
    body: Any, serializer: str, compression: str | None, headers: dict[str, Any], properties: dict[str, Any]
) -> bytes:
    if serializer == "json":
        properties["content_type"], properties["content_encoding"] = JSON_TYPE, "utf-8"
        data = json_dumps(body)
    else:
        properties["content_type"], properties["content_encoding"], data = registry.dumps(body, serializer)
    if compression:
        media_type = _COMPRESSION.get(compression, compression)
        if media_type not in _COMPRESSION.values():
            known = ", ".join(_COMPRESSION)
            raise ImproperlyConfigured(f"compression {compression!r} is not supported; choose one of {known}")
        from celeriac._core import compress

        headers["compression"] = media_type
        data = compress(data, media_type)
    return data


def _eta(app: Celery, countdown: float | None, eta: datetime | str | None) -> tuple[str | None, int | None]:
    if countdown:
        if countdown < _TOO_FAR_BACK:
            raise ValueError(f"countdown is too far in the past: {countdown}")
        moment = app.now() + timedelta(seconds=countdown)
        return moment.isoformat(), to_milliseconds(moment)
    if not eta:
        return None, None
    parsed = maybe_iso8601(eta)
    assert parsed is not None
    return eta if isinstance(eta, str) else eta.isoformat(), to_milliseconds(parsed)


def _expires(app: Celery, expires: float | timedelta | datetime | str | None) -> tuple[str | None, str | None]:
    """The header, and the milliseconds that the broker may keep the message."""
    if expires is None:
        return None, None
    if isinstance(expires, (int, float)):
        if expires < _TOO_FAR_BACK:
            raise ValueError(f"expires is too far in the past: {expires}")
        expires = timedelta(seconds=expires)
    if isinstance(expires, timedelta):
        expires = app.now() + expires
    moment = maybe_iso8601(expires)
    assert moment is not None
    left = to_milliseconds(moment) - to_milliseconds(datetime.now(UTC))
    return expires if isinstance(expires, str) else expires.isoformat(), str(max(0, left))


def _delivery_mode(mode: Any) -> int:
    named = {"persistent": 2, "transient": 1}.get(mode)
    return int(mode) if named is None else named


def _as_list(signatures: Any) -> list[Any] | None:
    if not signatures:
        return None
    return list(signatures) if isinstance(signatures, (list, tuple)) else [signatures]


def _our_origin() -> str:
    global _origin
    pid = os.getpid()
    if _origin[0] != pid:
        _origin = (pid, anon_nodename())
    return _origin[1]
