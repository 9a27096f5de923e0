"""A TCP proxy that misbehaves on command; the other end of it is `proxy_process.py`."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

Direction = Literal["up", "down"]


class Proxy:
    """Forwards a port of its own to a server's. It ends with this process."""

    def __init__(self, target: int) -> None:
        command = [sys.executable, str(Path(__file__).with_name("proxy_process.py")), str(target)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port: int = self._answer()["port"]

    def cut(self) -> int:
        """Resets every connection; how many there were."""
        cut: int = self._ask(do="cut")["cut"]
        return cut

    def arm(self, direction: Direction, pattern: bytes, *, then: str, skip: int = 0, times: int = 1) -> None:
        """Cuts the connection on which a pattern is next seen, `times` times, after it was let pass `skip` times.

        `then` says when: `before` it is forwarded, or (only `up`) `reply`: it is forwarded, the server has answered,
        and the answer is kept.
        """
        what = base64.b64encode(pattern).decode()
        self._ask(do="arm", direction=direction, pattern=what, then=then, skip=skip, times=times)

    def cut_after(self, direction: Direction, size: int) -> None:
        """Cuts the connection that has forwarded that many more bytes in a direction."""
        self._ask(do="cut_after", direction=direction, size=size)

    def disarm(self) -> None:
        """Forgets what it waits for."""
        self._ask(do="disarm")

    def stall(self) -> None:
        """Accepts and forwards nothing from now on, without closing anything: half-open."""
        self._ask(do="stall")

    def resume(self) -> None:
        """Forwards again, first what has waited."""
        self._ask(do="resume")

    def strand(self) -> int:
        """Swallows what the connections of now bring, without closing them; new ones work. How many there were."""
        stranded: int = self._ask(do="strand")["stranded"]
        return stranded

    def refuse(self) -> None:
        """Resets every connection and listens no more."""
        self._ask(do="refuse")

    def accept(self) -> None:
        """Listens again, on the same port."""
        self._ask(do="accept")

    def counts(self) -> dict[str, int]:
        """`opened`, `open`, `cut`, `up` and `down` (bytes), `armed` (cuts still to come)."""
        return self._ask(do="counts")

    def _ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the proxy has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def port_of(url: str) -> int:
    """The port of a broker's or a backend's URL."""
    return int(url.rpartition(":")[2].partition("/")[0])


def through(url: str, proxy: Proxy) -> str:
    """The same place by way of a proxy."""
    return url.replace(f":{port_of(url)}/", f":{proxy.port}/")
