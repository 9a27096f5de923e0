"""A receiver of HTTP calls for tests: it records what comes, and answers as it was told."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .conftest import wait_until


@dataclass(frozen=True)
class Received:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What is answered; `hold` waits until the receiver lets go."""

    status: int = 200
    body: bytes = b'{"ok": true}'
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    hold: bool = False


class Receiver:
    """Listens on loopback. Answers are given in order for each path, the last one again and again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Both written under the lock, by the server's threads and the test.
        self._received: list[Received] = []
        self._answers: dict[str, list[Answer]] = {}
        self._go = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver._serve(self, Received(self.command, self.path, headers, body))

            def do_GET(self) -> None:
                self.do_POST()

            def do_PUT(self) -> None:
                self.do_POST()

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 512
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass  # A worker that is killed breaks its connections.

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str, *answers: Answer | int) -> str:
        """Says what is answered there; gives its URL."""
        with self._lock:
            self._answers[path] = [Answer(given) if isinstance(given, int) else given for given in answers]
        return self.url + path

    def _serve(self, handler: Any, received: Received) -> None:
        with self._lock:
            self._received.append(received)
            answers = self._answers.get(received.path.partition("?")[0]) or [Answer()]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer.hold:
            self._go.wait(60)
        try:
            handler.send_response(answer.status)
            for name, value in answer.headers:
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(answer.body)))
            handler.end_headers()
            handler.wfile.write(answer.body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # Whoever asked has given up.

    def let_go(self) -> None:
        """Lets held requests be answered."""
        self._go.set()

    def received(self, path: str | None = None) -> list[Received]:
        """What has come so far."""
        with self._lock:
            return [one for one in self._received if path is None or one.path.partition("?")[0] == path]

    def wait_for(self, path: str, count: int = 1) -> list[Received]:
        """Waits until so many requests have come."""
        found: list[Received] = wait_until(
            lambda: found if len(found := self.received(path)) >= count else None, f"{count} requests to {path}"
        )
        return found

    def close(self) -> None:
        self._go.set()
        self._server.shutdown()
        self._server.server_close()


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
