"""`amqps://`: certificates are checked as `broker_use_ssl` asks for."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celery
from celeriac.exceptions import OperationalError

from ..servers.rabbitmq_server import RabbitServer
from ..servers.run import free_port


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """An authority, and a certificate of it for localhost."""
    authority = ["-keyout", f"{tmp_path}/ca.key", "-out", f"{tmp_path}/ca.pem", "-subj", "/CN=authority"]
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *authority)
    own = ["-keyout", f"{tmp_path}/own.key", "-out", f"{tmp_path}/own.csr", "-subj", "/CN=localhost"]
    openssl("req", "-newkey", "rsa:2048", "-nodes", *own)
    (tmp_path / "names").write_text("subjectAltName=DNS:localhost\n")
    signed = ["-in", f"{tmp_path}/own.csr", "-out", f"{tmp_path}/own.pem", "-extfile", f"{tmp_path}/names"]
    by = ["-CA", f"{tmp_path}/ca.pem", "-CAkey", f"{tmp_path}/ca.key", "-CAcreateserial", "-days", "2"]
    openssl("x509", "-req", *signed, *by)
    return tmp_path


def send(url: str, use_ssl: Any) -> None:
    app = Celery("secure", broker=url, set_as_current=False)
    app.conf.broker_use_ssl = use_ssl
    try:
        app.send_task("tasks.add", (1, 2), ignore_result=True)
    finally:
        app.close()


def test_a_server_is_believed_as_far_as_its_certificate_goes(
    certificates: Path, own_rabbitmq: Callable[..., RabbitServer]
) -> None:
    port = free_port()
    own_rabbitmq(
        f"listeners.ssl.1 = 127.0.0.1:{port}",
        f"ssl_options.cacertfile = {certificates}/ca.pem",
        f"ssl_options.certfile = {certificates}/own.pem",
        f"ssl_options.keyfile = {certificates}/own.key",
    )
    known = {"ca_certs": f"{certificates}/ca.pem", "cert_reqs": ssl.CERT_REQUIRED}

    send(f"amqps://guest:guest@localhost:{port}//", known)
    send(f"amqps://guest:guest@localhost:{port}//", {"cert_reqs": ssl.CERT_NONE})
    with pytest.raises(OperationalError, match="UnknownIssuer"):
        send(f"amqps://guest:guest@localhost:{port}//", True)
    with pytest.raises(OperationalError, match="certificate"):
        send(f"amqps://guest:guest@127.0.0.1:{port}//", known)
