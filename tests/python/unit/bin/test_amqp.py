"""`amqp` and `shell`: by hand."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from .conftest import Shop


def test_a_message_is_published_got_and_acknowledged_in_one_session(shop: Shop) -> None:
    lines = [
        "queue.declare post",
        'basic.publish "hello you" "" post',
        "basic.get post",
        "basic.ack 1",
        "basic.get post",
    ]

    result = shop.run("amqp", input="\n".join([*lines, "exit", "basic.publish never '' post"]))

    assert result.exit_code == 0, result.stderr
    assert "queue:post messages:0" in result.stdout
    assert "b'hello you'" in result.stdout
    assert "'delivery_tag': 1" in result.stdout
    assert "No messages in the queue." in result.stdout
    assert shop.counts("post") == {}


def test_what_is_got_and_not_acknowledged_goes_back(shop: Shop) -> None:
    assert shop.run("amqp", "basic.publish", "hello", "", "post").stdout == "OK\n"

    for _ in range(2):
        assert "b'hello'" in shop.run("amqp", "basic.get", "post").stdout
    assert shop.counts("post") == {"ready": 1}
    assert "b'hello'" in shop.run("amqp", "basic.get", "post", "true").stdout
    assert shop.counts("post") == {}


def test_a_queue_is_looked_for_and_emptied(shop: Shop) -> None:
    missing = shop.run("amqp", "queue.declare", "nowhere", "true")
    shop.run("amqp", "basic.publish", "x", "", "post")

    assert missing.exit_code == 1
    assert "there is no queue 'nowhere'" in missing.stderr
    assert shop.run("amqp", "queue.declare", "post").stdout == "queue:post messages:1\n"
    assert shop.run("amqp", "queue.purge", "post").stdout == "1 messages deleted.\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("exchange.declare", "x", "direct"), "exchange.declare is not supported"),
        (("exchange.delete", "x"), "rabbitmqctl"),
        (("queue.delete", "x"), "rabbitmqctl"),
        (("queue.bind", "q", "e", "k"), "the embedded broker keeps no bindings"),
        (("basic.ack", "7"), "no message with the delivery tag 7"),
    ],
)
def test_what_cannot_be_done_is_said(args: tuple[str, ...], says: str, shop: Shop) -> None:
    result = shop.run("amqp", *args)

    assert result.exit_code == 2
    assert says in result.stderr


def test_errors_do_not_end_the_shell(shop: Shop) -> None:
    result = shop.run("amqp", input="bogus\nbasic.ack 3\nbasic.get 'unclosed\nhelp\nqueue.declare post\n")

    assert result.exit_code == 0
    assert "No such command 'bogus'" in result.stderr
    assert "queue:post" in result.stdout


def test_the_shell_has_the_app_and_its_tasks(shop: Shop) -> None:
    result = shop.run("shell", "-P", input="print(app.main, celery is app, add(2, 3), mail.name)\n")

    assert "shop True 5 shop.mail" in result.stdout
    without = shop.run("shell", "--python", "-T", input="print('add' in globals())\n")
    assert "False" in without.stdout


def test_shells_that_are_not_installed_are_an_error_only_when_named(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        if name in ("IPython", "bpython", "gevent.monkey"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr("celeriac.bin.shell.import_module", fail)

    assert shop.run("shell", "-I").exit_code == 1
    assert "bpython is not installed" in shop.run("shell", "-B").stderr
    assert "gevent is not installed" in shop.run("shell", "--gevent").stderr
    assert "eventlet is not supported" in shop.run("shell", "--eventlet").stderr
    assert "7" in shop.run("shell", input="print(3 + 4)\n").stdout
