"""Settings of broker and result backend become the URLs and connection options that the engine takes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from celeriac import _state as current
from celeriac.backends.find import own_backend
from celeriac.exceptions import ImproperlyConfigured
from celeriac.result.record import expires_ms
from celeriac.serialization import registry
from celeriac.utils.imports import qualname
from celeriac.utils.urls import without_password

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.settings import Settings

__all__ = [
    "EMBEDDED_URL",
    "broker_url",
    "connection_options",
    "own_backend",
    "plain",
    "result_backend",
    "shown_backend",
    "tls_options",
    "uses_replies",
]

#: Carries messages and results when nobody names a broker.
EMBEDDED_URL = "sqlite:///celeriac.db"
#: The same where `celery` is celeriac: what Celery connects to when nobody names a broker.
CELERY_URL = "amqp://guest@localhost//"

_DISABLED = frozenset({"disabled", "disabled://"})
_EMBEDDED = ("sqlite", "memory")
_AMQP = ("amqp", "amqps", "pyamqp", "rpc")
_LOGIN_METHODS = (None, "PLAIN", "AMQPLAIN")
#: Setting -> option of the result backend's connections.
_REDIS_OPTIONS = {
    "redis_socket_timeout": "socket_timeout",
    "redis_socket_connect_timeout": "socket_connect_timeout",
    "redis_socket_keepalive": "socket_keepalive",
    "redis_retry_on_timeout": "retry_on_timeout",
    "redis_max_connections": "max_connections",
    "redis_backend_health_check_interval": "health_check_interval",
    "redis_client_name": "client_name",
}
#: `cert_reqs`, as number of the ssl module or as text.
_VERIFY = {
    0: "nothing",
    1: "full",
    2: "full",
    "none": "nothing",
    "cert_none": "nothing",
    "optional": "full",
    "cert_optional": "full",
    "required": "full",
    "cert_required": "full",
}


def broker_url(conf: Mapping[str, Any], role: str = "write") -> str:
    """The broker to send to (`write`) or to consume from (`read`): the embedded one when none is named.

    Raises:
        ImproperlyConfigured: The fail-over strategy is unknown.
    """
    found = conf[f"broker_{role}_url"] or conf["broker_url"]
    if not found:
        if conf["broker_host"]:
            return _from_parts(conf)
        return CELERY_URL if current.celery_defaults else EMBEDDED_URL
    urls = found.split(";") if isinstance(found, str) else [str(url) for url in found]
    if len(urls) > 1:
        urls = _ordered(urls, conf["broker_failover_strategy"])
    text = ";".join(urls)
    if text.startswith("//"):
        text = f"{conf['broker_transport'] or 'amqp'}:{text}"
    return text


def result_backend(conf: Mapping[str, Any]) -> str | None:
    """Where the engine keeps results; None when results are off, or kept by a backend that is written in Python.

    Raises:
        ImproperlyConfigured: `rpc://` with a broker that it does not go with.
    """
    found: str | None = conf["result_backend"]
    if found in _DISABLED or own_backend(found) is not None:
        return None
    if not found:
        named = conf["broker_url"] or conf["broker_write_url"] or conf["broker_host"]
        return None if named or current.celery_defaults else EMBEDDED_URL
    if found.startswith("cache+memory://"):
        # What Celery's test apps have.
        return "memory://"
    scheme, _, rest = found.partition("://")
    if scheme == "rpc" and not rest.strip("/"):
        return _replies(conf)
    if scheme in {"redis", "rediss"}:
        return _redis(conf, scheme, rest)
    return found


def needs_cleanup(app: Celery) -> bool:
    """Whether results stay in the backend until a task removes them: in a database of Celery's tables they do."""
    if app.has_own_backend:
        return not app.backend.supports_autoexpire
    return (app.result_backend_effective or "").startswith("db+")


def shown_backend(app: Celery) -> str:
    """Where results go, for people to read; `disabled://` when they are off."""
    found = app.result_backend_effective
    if found is None and app.has_own_backend:
        found = app.conf.result_backend
    return without_password(found if isinstance(found, str) else qualname(found) if found else "disabled://")


def uses_replies(conf: Mapping[str, Any]) -> bool:
    """Whether results come back on a queue of the process that sent the task."""
    return (result_backend(conf) or "").partition(":")[0] in _AMQP


def connection_options(app: Celery, *, worker: bool) -> dict[str, Any]:
    """What the engine's client or worker is told of its connections.

    Raises:
        ImproperlyConfigured: A setting that celeriac cannot follow.
    """
    conf = app.conf.values_now()
    method = conf["broker_login_method"]
    if method is not None and str(method).upper() not in _LOGIN_METHODS:
        raise ImproperlyConfigured(f"broker_login_method {method!r} is not supported: PLAIN and AMQPLAIN are")
    content_type = registry.codec(conf["result_serializer"]).content_type
    replies = uses_replies(conf)
    transport, tls = plain(conf["broker_transport_options"] or {}), tls_options(conf["broker_use_ssl"])
    heartbeat = conf["broker_heartbeat"] if worker else None
    return {
        "connect_timeout": conf["broker_connection_timeout"],
        "topology": app.router.queues.topology(),
        "transport_options": transport,
        "tls": tls,
        "heartbeat": None if heartbeat is None else float(heartbeat),
        # Replies go over the broker's own connections.
        "backend_transport_options": transport if replies else _backend_options(app.conf),
        "backend_tls": tls if replies else tls_options(conf["redis_backend_use_ssl"]),
        "backend_connect_timeout": conf["redis_socket_connect_timeout"],
        "result_content_type": content_type,
        "result_persistent": bool(conf["result_persistent"]),
        "result_expires_ms": expires_ms(conf["result_expires"]),
        "reply_queue": app.reply_queue if replies else None,
    }


def plain(value: Any) -> Any:
    """A value as JSON has it; what JSON cannot hold is left out of mappings and sequences."""
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(key): item for key, one in value.items() if (item := plain(one)) is not None}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [item for one in value if (item := plain(one)) is not None]
    return None


def tls_options(given: Any) -> dict[str, Any] | None:
    """TLS as `broker_use_ssl` or `redis_backend_use_ssl` wants it; None is what the URL's scheme says.

    Raises:
        ImproperlyConfigured: `cert_reqs` is none of the ssl module's values.
    """
    if not given:
        return None
    options = dict(given) if isinstance(given, Mapping) else {}

    def get(name: str) -> Any:
        value = options.get(f"ssl_{name}")
        return options.get(name) if value is None else value

    wanted = get("cert_reqs")
    verify = _VERIFY.get(wanted.lower() if isinstance(wanted, str) else wanted) if wanted is not None else "full"
    if verify is None:
        raise ImproperlyConfigured(
            f"cert_reqs must be ssl.CERT_NONE, CERT_OPTIONAL or CERT_REQUIRED, or none, optional or required: {wanted!r}"
        )
    if verify == "full" and get("check_hostname") is False:
        verify = "certificate"
    paths = {name: get(name) for name in ("ca_certs", "certfile", "keyfile")}
    return {**{name: str(path) for name, path in paths.items() if path}, "verify": verify}


def _backend_options(conf: Settings) -> dict[str, Any]:
    # Only what somebody has set: Celery's defaults (two minutes for an answer, no keepalive) are not ours.
    given = {option: conf.chosen(setting) for setting, option in _REDIS_OPTIONS.items()}
    options: dict[str, Any] = plain({**given, **(conf.result_backend_transport_options or {})})
    return options


def _ordered(urls: list[str], strategy: str | Callable[[list[str]], Iterable[str]] | None) -> list[str]:
    if callable(strategy):
        return list(islice(strategy(urls), len(urls)))
    if strategy == "shuffle":
        return random.sample(urls, len(urls))
    if strategy not in (None, "round-robin"):
        raise ImproperlyConfigured(f"broker_failover_strategy must be round-robin, shuffle or a callable: {strategy!r}")
    return urls


def _from_parts(conf: Mapping[str, Any]) -> str:
    return _assembled(
        conf["broker_transport"] or "amqp",
        (conf["broker_user"], conf["broker_password"], conf["broker_host"], conf["broker_port"]),
        quote(conf["broker_vhost"] or "", safe=""),
    )


def _replies(conf: Mapping[str, Any]) -> str:
    url = broker_url(conf)
    scheme = url.partition(":")[0]
    if scheme not in _AMQP and scheme not in _EMBEDDED:
        raise ImproperlyConfigured(
            f"result_backend rpc:// sends results over RabbitMQ, and the broker is {scheme}://: name a store for them, such as redis://"
        )
    return url


def _redis(conf: Mapping[str, Any], scheme: str, rest: str) -> str:
    """A Redis URL; what it leaves out is taken from the `redis_*` settings."""
    settings = [conf[f"redis_{part}"] for part in ("username", "password", "host", "port", "db")]
    if all(value is None for value in settings):
        return f"{scheme}://{rest or 'localhost'}"
    if ";" in rest:
        return f"{scheme}://{rest}"
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(f"redis://{rest}")
    user, password, host, port, db = settings
    if parts.username or parts.password:
        user, password = unquote(parts.username or ""), None if parts.password is None else unquote(parts.password)
    host, port = parts.hostname or host or "localhost", parts.port or port
    path = parts.path.strip("/") or ("" if db is None else str(db))
    return _assembled(scheme, (user, password, host, port), path) + (f"?{parts.query}" if parts.query else "")


def _assembled(scheme: str, parts: tuple[Any, Any, str, Any], path: str) -> str:
    user, password, host, port = parts
    login = quote(user or "", safe="")
    if password is not None:
        login += ":" + quote(str(password), safe="")
    address = f"[{host}]" if ":" in host else host
    if port is not None:
        address += f":{port}"
    return f"{scheme}://{login}{'@' if login else ''}{address}/{path}"
