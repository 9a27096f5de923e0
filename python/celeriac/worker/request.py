"""Opens a message: bytes and headers become arguments and the request of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celeriac import _core
from celeriac.app import large
from celeriac.app.context import Context
from celeriac.exceptions import ContentDisallowed, DecodeError, PayloadMissing, SerializerNotInstalled
from celeriac.serialization import json, registry
from celeriac.utils.blocking import off_the_loop

if TYPE_CHECKING:
    from celeriac._core import Execution
    from celeriac.app.base import Celery

#: A compressed body may not become larger than this.
DEFAULT_MAX_BODY_BYTES = 256 * 1024 * 1024


class Refused(Exception):
    """The message cannot be read. `kind` is the outcome: `malformed` or `disallowed`."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class Opener:
    """Reads the messages of one app, in one child."""

    def __init__(self, app: Celery, node: str) -> None:
        self._accept = registry.prepare_accept_content(app.conf.accept_content)
        self._max_body: int = app.conf.get("worker_max_message_bytes") or DEFAULT_MAX_BODY_BYTES
        self._node = node
        self._payloads = large.of_app(app)
        self._accepts_json = self._accept is None or json.CONTENT_TYPE in self._accept
        #: Queues have rules of their own.
        self._queues = bool(app.router.queues.defaults)

    def open(self, execution: Execution) -> Context:
        """Decodes the body and makes the request.

        Raises:
            Refused: The message is not what the protocol says, or of a type that is not accepted.
        """
        if self._accepts_json and registry.json_is_own():
            fields = execution.request(json.decoders(), self._node)
            if fields is not None:
                if self._queues:
                    fields["_queue"] = execution.queue
                return _context(fields)
        return self._open_any(execution)

    def _open_any(self, execution: Execution) -> Context:
        """The same for any serializer and protocol, step by step, with words for what is wrong."""
        # Decoded anew each time that they are asked for: this dict is ours, and becomes the request's.
        headers, properties = execution.headers, execution.properties
        body = execution.body
        if self._payloads is not None and properties.get("content_type") == large.CONTENT_TYPE:
            try:
                body = off_the_loop(self._payloads.fetch, headers, properties)
            except PayloadMissing as exc:
                raise Refused("malformed", str(exc)) from exc
        args, kwargs, embed = self._payload(body, headers, properties)
        headers["args"] = args
        headers["kwargs"] = kwargs
        if embed:
            get = embed.get
            headers["callbacks"] = get("callbacks")
            headers["errbacks"] = get("errbacks")
            headers["chain"] = get("chain")
            headers["chord"] = get("chord")
        return self._request(execution, headers, properties)

    def unopened(self, execution: Execution) -> Context:
        """The request of a message whose body cannot, or need not, be read."""
        headers = execution.headers
        headers["args"], headers["kwargs"] = (), {}
        return self._request(execution, headers, execution.properties)

    def _request(self, execution: Execution, headers: dict[str, Any], properties: dict[str, Any]) -> Context:
        get = properties.get
        headers["delivery_info"] = {
            "exchange": execution.exchange,
            "routing_key": execution.routing_key,
            "priority": get("priority"),
            "redelivered": execution.redelivered,
        }
        headers["properties"] = properties
        headers["reply_to"] = get("reply_to")
        headers["correlation_id"] = get("correlation_id")
        headers["hostname"] = self._node
        headers["called_directly"] = False
        # Names that begin so are ours; a message must not set them.
        headers["_children"] = None
        headers["_tag"] = execution.tag
        headers["_follow_ups"] = []
        headers["_parts"] = None
        headers["_queue"] = execution.queue if self._queues else None
        if headers.get("retries") is None:
            headers["retries"] = 0
        headers.pop("headers", None)
        return _context(headers)

    def _payload(
        self, body: bytes, headers: dict[str, Any], properties: dict[str, Any]
    ) -> tuple[Any, dict[str, Any], Mapping[str, Any] | None]:
        payload = self._decode(body, headers, properties)
        if isinstance(payload, (list, tuple)) and len(payload) == 3:
            args, kwargs, embed = payload
        elif isinstance(payload, dict) and "args" in payload:
            # Arguments in the form of protocol 1 below headers of protocol 2: the headers win.
            args, kwargs, embed = payload["args"], payload.get("kwargs", {}), payload
            for name, value in payload.items():
                headers.setdefault(name, value)
        else:
            raise Refused("malformed", f"the body is not [args, kwargs, embed] but {_describe(payload)}")
        if not isinstance(args, (list, tuple)):
            raise Refused("malformed", f"args is not a list but {_describe(args)}")
        if not isinstance(kwargs, dict):
            raise Refused("malformed", f"kwargs is not a mapping but {_describe(kwargs)}")
        if embed is not None and not isinstance(embed, dict):
            raise Refused("malformed", f"embed is not a mapping but {_describe(embed)}")
        return args, kwargs, embed

    def _decode(self, body: bytes, headers: dict[str, Any], properties: dict[str, Any]) -> Any:
        content_type = properties.get("content_type")
        if not content_type:
            raise Refused("malformed", "the message has no content type")
        try:
            compression = headers.get("compression")
            if compression:
                body = _core.decompress(body, compression, self._max_body)
            return registry.loads(body, content_type, properties.get("content_encoding") or "utf-8", self._accept)
        except (ContentDisallowed, SerializerNotInstalled) as exc:
            raise Refused("disallowed", str(exc)) from exc
        except DecodeError as exc:
            raise Refused("malformed", f"the body cannot be decoded: {exc}") from exc


def _context(fields: dict[str, Any]) -> Context:
    request = Context.__new__(Context)
    # The dict is ours alone: no need to copy thirty items for each request.
    request.__dict__ = fields
    return request


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    words: dict[type, str] = {dict: "an object", str: "a text", bytes: "bytes"}
    return words.get(type(value), f"a {type(value).__name__}")


def create_request_cls(*args: Any, **kwargs: Any) -> Any:
    """What makes requests of messages: here it is the engine, so that there is nothing to make.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError("requests are made by the engine: a task cannot have a request class of its own")


def __getattr__(name: str) -> Any:
    if name != "Request":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # What `task_received` tells of.
    from celeriac.worker.task_signals import ReceivedRequest

    return ReceivedRequest
