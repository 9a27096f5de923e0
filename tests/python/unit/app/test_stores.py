"""Settings of broker and result backend, as the engine is given them."""

from __future__ import annotations

import os
import ssl
from datetime import timedelta
from typing import Any

import pytest

from celeriac import Celery
from celeriac.app.options import worker_options
from celeriac.app.stores import connection_options, plain, tls_options
from celeriac.exceptions import ImproperlyConfigured


def app_with(**settings: Any) -> Celery:
    return Celery("x", **settings)


def options_of(worker: bool = False, **settings: Any) -> dict[str, Any]:
    return connection_options(app_with(**settings), worker=worker)


@pytest.mark.parametrize(
    ("settings", "writes", "reads"),
    [
        ({}, "sqlite:///celeriac.db", "sqlite:///celeriac.db"),
        ({"broker_url": "redis://h/1"}, "redis://h/1", "redis://h/1"),
        ({"broker_url": ["amqp://a//", "amqp://b//"]}, "amqp://a//;amqp://b//", "amqp://a//;amqp://b//"),
        ({"broker_url": "amqp://a//;amqp://b//"}, "amqp://a//;amqp://b//", "amqp://a//;amqp://b//"),
        (
            {"broker_url": "redis://h", "broker_read_url": "redis://r", "broker_write_url": "redis://w"},
            "redis://w",
            "redis://r",
        ),
        ({"broker_url": "redis://h", "broker_read_url": "redis://r"}, "redis://h", "redis://r"),
        ({"broker_url": "//guest@h//", "broker_transport": "pyamqp"}, "pyamqp://guest@h//", "pyamqp://guest@h//"),
        (
            {"broker_host": "h", "broker_user": "u", "broker_password": "p@", "broker_port": 5, "broker_vhost": "/v"},
            "amqp://u:p%40@h:5/%2Fv",
            "amqp://u:p%40@h:5/%2Fv",
        ),
    ],
)
def test_brokers_are_found_where_celery_finds_them(settings: dict[str, Any], writes: str, reads: str) -> None:
    app = app_with(**settings)

    assert app.broker_url_effective == writes
    assert app.broker_read_url_effective == reads


def test_the_order_of_several_brokers_is_the_strategys() -> None:
    urls = ["amqp://a//", "amqp://b//", "amqp://c//"]

    shuffled = app_with(broker_url=urls, broker_failover_strategy="shuffle").broker_url_effective
    turned = app_with(broker_url=urls, broker_failover_strategy=lambda given: reversed(given)).broker_url_effective

    assert sorted(shuffled.split(";")) == urls
    assert turned == "amqp://c//;amqp://b//;amqp://a//"
    with pytest.raises(ImproperlyConfigured, match="broker_failover_strategy"):
        _ = app_with(broker_url=urls, broker_failover_strategy="nearest").broker_url_effective


@pytest.mark.parametrize(
    ("settings", "backend"),
    [
        ({}, "sqlite:///celeriac.db"),
        ({"broker_url": "redis://h"}, None),
        ({"broker_url": "redis://h", "result_backend": "disabled"}, None),
        ({"result_backend": "redis"}, "redis://localhost"),
        ({"result_backend": "redis://"}, "redis://localhost"),
        ({"result_backend": "redis://h:1/2?socket_timeout=3"}, "redis://h:1/2?socket_timeout=3"),
        (
            {"result_backend": "redis", "redis_host": "h", "redis_port": 1, "redis_db": 2, "redis_password": "p/"},
            "redis://:p%2F@h:1/2",
        ),
        ({"result_backend": "rediss://h/3?ssl_cert_reqs=none", "redis_db": 2, "redis_port": 9, "redis_username": "u"},
         "rediss://u@h:9/3?ssl_cert_reqs=none"),
        ({"result_backend": "redis://me:own@h", "redis_password": "other"}, "redis://me:own@h/"),
        ({"broker_url": "amqp://u:p@h//", "result_backend": "rpc://"}, "amqp://u:p@h//"),
        ({"broker_url": "amqp://h//", "result_backend": "rpc"}, "amqp://h//"),
        ({"broker_url": "memory://m", "result_backend": "rpc://"}, "memory://m"),
    ],
)  # fmt: skip
def test_result_backends_are_found_where_celery_finds_them(settings: dict[str, Any], backend: str | None) -> None:
    assert app_with(**settings).result_backend_effective == backend


def test_replies_do_not_go_over_redis() -> None:
    app = app_with(broker_url="redis://u:secret@h", result_backend="rpc://")

    with pytest.raises(ImproperlyConfigured, match="rpc://") as raised:
        _ = app.result_backend_effective
    assert "secret" not in str(raised.value)


def test_reply_to_is_the_reply_queue_of_the_process_with_rpc_alone() -> None:
    rpc = app_with(broker_url="amqp://h//", result_backend="rpc://")
    other = app_with(broker_url="amqp://h//", result_backend="redis://h")

    assert rpc.thread_oid == rpc.reply_queue == connection_options(rpc, worker=False)["reply_queue"]
    assert connection_options(other, worker=False)["reply_queue"] is None
    assert other.thread_oid != other.reply_queue
    other.conf.result_backend = "rpc://"
    assert other.thread_oid == other.reply_queue


def test_a_forked_process_has_another_reply_queue() -> None:
    app = app_with(broker_url="amqp://h//", result_backend="rpc://")
    ours = app.thread_oid
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, app.thread_oid.encode())
        os._exit(0)
    os.waitpid(pid, 0)

    theirs = os.read(read, 100).decode()

    os.close(read)
    os.close(write)
    assert len(theirs) == len(ours) == 36
    assert theirs != ours


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (False, None),
        (True, {"verify": "full"}),
        (
            {"keyfile": "k", "certfile": "c", "ca_certs": "a", "cert_reqs": ssl.CERT_REQUIRED},
            {"keyfile": "k", "certfile": "c", "ca_certs": "a", "verify": "full"},
        ),
        ({"ssl_ca_certs": "a", "ssl_cert_reqs": "required"}, {"ca_certs": "a", "verify": "full"}),
        ({"ssl_cert_reqs": ssl.CERT_NONE}, {"verify": "nothing"}),
        ({"cert_reqs": "CERT_NONE"}, {"verify": "nothing"}),
        ({"ssl_cert_reqs": "required", "ssl_check_hostname": False}, {"verify": "certificate"}),
    ],
)
def test_tls_is_read_under_the_names_of_both_transports(given: Any, expected: Any) -> None:
    assert tls_options(given) == expected


def test_tls_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ImproperlyConfigured, match="cert_reqs"):
        tls_options({"ssl_cert_reqs": "sometimes"})


def test_transport_options_become_json() -> None:
    given = {
        "visibility_timeout": 5,
        "socket_keepalive_options": {1: 2},
        "wait": timedelta(seconds=2),
        "steps": (0, 3),
        "mode": ssl.CERT_REQUIRED,
        "callback": print,
    }

    assert plain(given) == {
        "visibility_timeout": 5,
        "socket_keepalive_options": {"1": 2},
        "wait": 2.0,
        "steps": [0, 3],
        "mode": 2,
    }


def test_redis_settings_are_options_of_the_result_backend() -> None:
    options = options_of(
        broker_url="redis://h",
        result_backend="redis://h",
        broker_transport_options={"visibility_timeout": 5},
        result_backend_transport_options={"global_keyprefix": "p", "socket_timeout": 7},
        redis_socket_connect_timeout=3,
        redis_max_connections=20,
        redis_backend_use_ssl={"ssl_cert_reqs": ssl.CERT_NONE},
        broker_use_ssl=True,
    )

    assert options["transport_options"] == {"visibility_timeout": 5}
    assert options["backend_transport_options"] == {
        "global_keyprefix": "p",
        "socket_timeout": 7,
        "socket_connect_timeout": 3,
        "max_connections": 20,
    }
    assert options["backend_connect_timeout"] == 3
    assert (options["tls"], options["backend_tls"]) == ({"verify": "full"}, {"verify": "nothing"})


def test_replies_have_the_options_of_the_broker() -> None:
    options = options_of(
        broker_url="amqp://h//", result_backend="rpc://", broker_use_ssl=True, broker_transport_options={"a": 1},
        result_persistent=True, result_expires=60, result_serializer="pickle",
    )  # fmt: skip

    assert options["backend_transport_options"] == {"a": 1}
    assert options["backend_tls"] == {"verify": "full"}
    assert options["result_persistent"] is True
    assert options["result_expires_ms"] == 60_000
    assert options["result_content_type"] == "application/x-python-serialize"


def test_only_workers_ask_for_heartbeats() -> None:
    assert options_of(broker_heartbeat=10)["heartbeat"] is None
    assert options_of(worker=True, broker_heartbeat=10)["heartbeat"] == 10.0
    assert options_of(worker=True, broker_heartbeat=0)["heartbeat"] == 0.0


def test_a_login_method_that_nobody_speaks_is_an_error() -> None:
    assert options_of(broker_login_method="PLAIN")
    with pytest.raises(ImproperlyConfigured, match="broker_login_method 'EXTERNAL'"):
        options_of(broker_login_method="EXTERNAL")


@pytest.mark.parametrize(
    ("settings", "attempts"),
    [
        ({}, 100),
        ({"broker_connection_max_retries": None}, None),
        ({"broker_connection_max_retries": 0}, None),
        ({"broker_connection_max_retries": 3}, 3),
        ({"broker_connection_retry_on_startup": False}, 1),
        ({"broker_connection_retry": False}, 1),
        ({"broker_connection_retry": False, "broker_connection_retry_on_startup": True}, 100),
    ],
)
def test_a_worker_tries_as_long_as_the_settings_say(settings: dict[str, Any], attempts: int | None) -> None:
    assert worker_options(app_with(**settings), node="w@h")["connect_attempts"] == attempts


def test_a_worker_consumes_from_one_broker_and_publishes_to_the_other() -> None:
    options = worker_options(app_with(broker_read_url="redis://r", broker_write_url="redis://w"), node="w@h")

    assert (options["broker_url"], options["broker_write_url"]) == ("redis://r", "redis://w")
