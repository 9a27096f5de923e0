"""Signals: who is called, and what a receiver cannot break."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from celeriac._dispatch import Signal
from celeriac.local import Proxy


def test_receivers_are_called_with_what_is_sent_and_their_answers_are_given() -> None:
    signal = Signal({"n"}, "s")

    @signal.connect
    def double(sender, n, **_):
        return sender, n * 2

    assert signal.send("me", n=2) == [(double, ("me", 4))]
    assert signal.disconnect(double)
    assert not signal.disconnect(double)
    assert signal.send("me", n=2) == []


def test_a_receiver_may_ask_for_one_sender() -> None:
    signal, seen, task = Signal(name="s"), [], object()
    signal.connect(lambda sender, **_: seen.append(sender), sender="a.task", weak=False)
    signal.connect(lambda sender, **_: seen.append(sender), sender=Proxy(lambda: task), weak=False)

    signal.send("a." + "task")
    signal.send("other")
    signal.send(task)

    assert seen == ["a.task", task]
    assert signal.has_listeners("a.task")
    assert not signal.has_listeners("other")


def test_what_a_receiver_raises_is_logged_and_kept(caplog) -> None:
    signal, seen = Signal(name="s"), []

    def breaks(**_):
        raise ValueError("broken")

    signal.connect(breaks)
    signal.connect(lambda **_: seen.append(1), weak=False)
    with caplog.at_level(logging.ERROR):
        (first, error), _ = signal.send(None)

    assert first is breaks
    assert isinstance(error, ValueError)
    assert seen == [1]
    assert "broken" in caplog.text


def test_receivers_are_held_weakly_unless_asked() -> None:
    signal, seen = Signal(name="s"), []

    class Listener:
        def hear(self, **_):
            seen.append(1)

    listener = Listener()
    signal.connect(listener.hear)
    signal.send(None)
    del listener
    gc.collect()
    signal.send(None)

    assert seen == [1]
    assert signal.receivers == ()


def test_a_dispatch_uid_connects_once() -> None:
    signal, seen = Signal(name="s"), []
    for _ in range(3):
        signal.connect(lambda **_: seen.append(1), weak=False, dispatch_uid="only")

    signal.send(None)

    assert seen == [1]
    assert signal.disconnect(dispatch_uid="only")


def test_a_receiver_that_retries_is_called_again(monkeypatch) -> None:
    signal, calls = Signal(name="s"), []
    monkeypatch.setattr("celeriac._dispatch.time.sleep", lambda _: None)

    def flaky(**_: Any) -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ValueError
        return "done"

    signal.connect(flaky, retry=True)

    assert signal.send(None) == [(flaky, "done")]


def test_a_proxy_is_looked_behind_when_something_is_sent() -> None:
    signal, seen = Signal(name="s"), []
    found: list[object] = []

    def look() -> object:
        found.append(1)
        return task

    task = object()
    sender = Proxy(look)
    signal.connect(lambda sender, **_: seen.append(sender), sender=sender, weak=False)
    assert found == []

    signal.send(task)
    signal.send(object())

    assert seen == [task]


def test_a_receiver_has_to_take_what_signals_may_add() -> None:
    signal = Signal(name="s")

    with pytest.raises(ValueError, match="must accept keyword arguments"):
        signal.connect(lambda sender: None)
    with pytest.raises(TypeError, match="must be callable"):
        signal.connect("me")  # type: ignore[arg-type]
    assert signal.receivers == ()


def test_one_name_is_connected_once() -> None:
    signal, seen = Signal(name="s"), []
    signal.connect(lambda **_: seen.append("first"), weak=False, dispatch_uid="mine")
    signal.connect(lambda **_: seen.append("second"), weak=False, dispatch_uid="mine")

    signal.send(None)

    assert seen == ["first"]
    assert signal.disconnect(dispatch_uid="mine")
    assert signal.send(None) == []
