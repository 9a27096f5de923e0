"""A private RabbitMQ node with its own epmd, on free ports and in a folder of its own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from .run import end, free_port, tied, until

#: The scripts without the wrapper that changes the user.
SCRIPTS = Path("/usr/lib/rabbitmq/bin")
PASSWORD = "guest"


class RabbitServer:
    """One node. Its virtual hosts `v0`, `v1`, ... are there from the start: making one later takes seconds."""

    def __init__(self, folder: Path, *settings: str, hosts: int = 1) -> None:
        self.folder = folder
        self.settings = settings
        self.hosts = hosts
        self.port = self._distribution_port = self._epmd_port = 0
        self.process: subprocess.Popen[Any] | None = None
        self._epmd: subprocess.Popen[Any] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> RabbitServer:
        """Starts the node, on the ports that it had, and waits until it takes connections."""
        again = bool(self.port)
        for _ in range(3):
            self._choose_ports()
            if self._started():
                return self
            self.stop(hard=True)
            if again:
                break
            self.port = 0  # somebody was quicker
        raise AssertionError(self.log)

    def _choose_ports(self) -> None:
        if self.port:
            return
        self.port, self._distribution_port, self._epmd_port = free_port(), free_port(), free_port()
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "definitions.json").write_text(json.dumps(self._definitions()))
        lines = [f"listeners.tcp.1 = 127.0.0.1:{self.port}", f"load_definitions = {self.folder}/definitions.json"]
        (self.folder / "rabbitmq.conf").write_text("\n".join([*lines, *self.settings, ""]))

    def _definitions(self) -> dict[str, Any]:
        salt = os.urandom(4)
        digest = base64.b64encode(salt + hashlib.sha256(salt + PASSWORD.encode()).digest()).decode()
        user = {"name": "guest", "password_hash": digest, "tags": "administrator"}
        names = ["/", *(f"v{number}" for number in range(self.hosts))]
        everything = {"user": "guest", "configure": ".*", "write": ".*", "read": ".*"}
        return {
            "users": [user],
            "vhosts": [{"name": name} for name in names],
            "permissions": [{"vhost": name, **everything} for name in names],
        }

    @property
    def environment(self) -> dict[str, str]:
        """For the node and for `rabbitmqctl`."""
        folder = str(self.folder)
        return {
            **os.environ,
            "HOME": folder,
            "RABBITMQ_NODENAME": f"t{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            # Two schedulers that do not spin: the node shares the machine with the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
            # The script then becomes the node, which so is a child of ours, and not a grandchild.
            "RUNNING_UNDER_SYSTEMD": "true",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def _started(self) -> bool:
        if self._epmd is None:
            # In the foreground: the one that the node would start goes into the background and stays.
            self._epmd = tied(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"])
            epmd = self._epmd
            until(lambda: self._listens(self._epmd_port) or epmd.poll() is not None, 10, "epmd listens")
        with (self.folder / "output").open("ab") as output:
            command = [str(SCRIPTS / "rabbitmq-server")]
            environment = self.environment
            self.process = tied(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        process = self.process
        until(lambda: self._answers() or process.poll() is not None, 60, "RabbitMQ answers")
        return process.poll() is None

    def _listens(self, port: int) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as server:
            server.settimeout(5)
            server.sendall(b"AMQP\x00\x00\x09\x01")
            return server.recv(1) == b"\x01"
        return False

    def stop(self, *, hard: bool = False) -> None:
        """Ends the node and its epmd; `hard` is SIGKILL."""
        end(self.process, hard=hard, seconds=30)
        end(self._epmd, hard=True)
        self.process = self._epmd = None

    def control(self, *arguments: str) -> str:
        """Runs `rabbitmqctl`, which takes one to two seconds."""
        command = [str(SCRIPTS / "rabbitmqctl"), "--quiet", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    @property
    def log(self) -> str:
        """What the node has said."""
        files = [self.folder / "output", *(self.folder / "log").glob("*.log")]
        return "\n".join(path.read_text(errors="replace") for path in files if path.exists())

    def url(self, host: int | None = None) -> str:
        """As brokers take it; without a number it is the default virtual host."""
        name = "/" if host is None else f"v{host}"
        return f"amqp://guest:{PASSWORD}@127.0.0.1:{self.port}/{name}"
