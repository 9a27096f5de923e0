"""`amqp`: looks at queues and messages by hand, as a shell or one command at a time."""

from __future__ import annotations

import shlex
import sys
from pprint import pformat
from typing import TYPE_CHECKING, Any

import click

from celeriac.bin.options import EXIT_FAILURE, Shared, friendly_errors, shared_options, stop

if TYPE_CHECKING:
    from celeriac._core import Client, Consumer, Delivery
    from celeriac.entities import Queue

#: A message that was got and not acknowledged goes back after this, should this process be lost.
LEASE_SECONDS = 1800.0
#: How long `basic.get` waits for the first message.
GET_SECONDS = 0.5
#: The engine declares exchanges along with queues, and deletes nothing that it does not own.
_ELSEWHERE = "on RabbitMQ, rabbitmqctl and rabbitmqadmin do it"


class Session:
    """The connection, and what was got over it and not acknowledged."""

    def __init__(self, shared: Shared) -> None:
        self.app = shared.load_app()
        self.url: str = self.app.broker_url_effective
        self._client: Client | None = None
        self._consumers: dict[str, Consumer] = {}
        # Delivery tag -> queue and message.
        self._got: dict[int, tuple[str, Delivery]] = {}
        self._last_tag = 0

    @property
    def client(self) -> Client:
        """Of the app's broker."""
        from celeriac.bin.connect import client_for

        if self._client is None:
            self._client = client_for(self.app, self.url)
        return self._client

    def declare(self, queue: Queue) -> None:
        """Declares a queue with its exchange and binding."""
        from celeriac.bin.connect import client_for, consumer_name

        client = client_for(self.app, self.url, queue)
        try:
            # Whoever consumes declares first.
            client.consume([queue.name], consumer_name("amqp")).close()
        finally:
            client.close()

    def get(self, queue: str, no_ack: bool) -> dict[str, Any] | None:
        """Takes one message; None when there is none."""
        from celeriac.bin.connect import consumer_name

        if queue not in self._consumers:
            self._consumers[queue] = self.client.consume([queue], consumer_name("amqp"), LEASE_SECONDS)
        consumer = self._consumers[queue]
        found = consumer.claim(1, GET_SECONDS)
        if not found:
            return None
        [delivery] = found
        self._last_tag += 1
        if no_ack:
            consumer.settle([delivery.claim], "ack")
        else:
            self._got[self._last_tag] = (queue, delivery)
        return {
            "body": delivery.body,
            "properties": {**delivery.properties, "headers": delivery.headers},
            "delivery_info": {
                "delivery_tag": self._last_tag,
                "redelivered": delivery.redelivered,
                "exchange": delivery.exchange,
                "routing_key": delivery.routing_key,
            },
        }

    def ack(self, tag: int) -> None:
        """Acknowledges a message that was got in this session."""
        if tag not in self._got:
            stop(
                f"no message with the delivery tag {tag} was got here", "basic.get shows it; one session has to do both"
            )
        queue, delivery = self._got.pop(tag)
        if self._consumers[queue].settle([delivery.claim], "ack"):
            stop("the message went back to its queue meanwhile", "get it again", EXIT_FAILURE)

    def close(self) -> None:
        """Gives back what was not acknowledged."""
        for consumer in self._consumers.values():
            consumer.close()
        if self._client is not None:
            self._client.close()


@click.group(name="amqp", invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@shared_options
@click.pass_context
def main(ctx: click.Context) -> None:
    """Look at queues and messages by hand: a shell, or one command. Works with every broker."""
    session = Session(ctx.ensure_object(Shared))
    ctx.obj = session
    ctx.call_on_close(session.close)
    if ctx.invoked_subcommand is None:
        ctx.invoke(repl)


@main.command("repl")
@click.pass_obj
def repl(session: Session) -> None:
    """Read commands until the end of the input, `exit` or `quit`."""
    with friendly_errors():
        session.client.queues()
        click.echo(f"-> connected to {session.client.broker_url()}", err=True)
    while True:
        try:
            words = shlex.split(click.prompt("amqp", prompt_suffix="> ", default="", show_default=False, err=True))
        except (click.Abort, EOFError):
            return
        except ValueError as exc:
            click.echo(f"Error: {exc}", err=True)
            continue
        if words and words[0] in ("exit", "quit", "q"):
            return
        if words:
            _one(session, words)


def _one(session: Session, words: list[str]) -> None:
    """Runs a line of the shell; errors do not end it."""
    try:
        lines = click.Group("amqp", commands=main.commands)
        lines(["--help"] if words == ["help"] else words, prog_name="amqp", obj=session, standalone_mode=False)
    except click.ClickException as exc:
        exc.show(sys.stderr)
    except (SystemExit, click.exceptions.Exit):
        pass


@main.command("queue.declare")
@click.argument("queue")
@click.argument("passive", type=bool, default=False)
@click.argument("durable", type=bool, default=None, required=False)
@click.argument("auto_delete", type=bool, default=None, required=False)
@click.pass_obj
def queue_declare(session: Session, queue: str, passive: bool, durable: bool | None, auto_delete: bool | None) -> None:
    """Declare a queue, as the settings have it unless DURABLE or AUTO_DELETE is given; PASSIVE: only look for it."""
    from celeriac.entities import Queue

    with friendly_errors():
        if not passive:
            wanted = session.app.router.queues[queue]
            if durable is not None or auto_delete is not None:
                wanted = Queue(queue, durable=bool(durable), auto_delete=bool(auto_delete))
            session.declare(wanted)
        found = next((status for status in session.client.queues() if status["name"] == queue), None)
    if found is None and passive:
        stop(f"there is no queue {queue!r}", code=EXIT_FAILURE)
    click.echo(f"queue:{queue} messages:{found['ready'] if found else 0}")


@main.command("queue.bind")
@click.argument("queue")
@click.argument("exchange")
@click.argument("routing_key")
@click.option("--type", "kind", default="direct", show_default=True, help="Type of the exchange.")
@click.pass_obj
def queue_bind(session: Session, queue: str, exchange: str, routing_key: str, kind: str) -> None:
    """Bind a queue to an exchange; both are declared."""
    from celeriac.entities import Exchange, Queue

    if session.url.startswith(("sqlite:", "memory:")):
        stop(
            "the embedded broker keeps no bindings", "a queue is reached by its name, or by task_queues and task_routes"
        )
    with friendly_errors():
        session.declare(Queue(queue, Exchange(exchange, type=kind), routing_key=routing_key))
    click.echo("OK")


@main.command("queue.purge")
@click.argument("queue")
@click.pass_obj
def queue_purge(session: Session, queue: str) -> None:
    """Delete all waiting messages of a queue."""
    with friendly_errors():
        click.echo(f"{session.client.purge(queue)} messages deleted.")


@main.command("basic.publish")
@click.argument("msg")
@click.argument("exchange")
@click.argument("routing_key")
@click.argument("mandatory", type=bool, default=False)
@click.argument("immediate", type=bool, default=False)
@click.pass_obj
def basic_publish(
    session: Session, msg: str, exchange: str, routing_key: str, mandatory: bool, immediate: bool
) -> None:
    """Send the text MSG; "" is the default exchange. It returns when the broker has it, whatever MANDATORY says."""
    from celeriac._core import Publication

    if immediate:
        stop("the flag immediate is not supported", "no broker has it any more")
    properties = {"content_type": "text/plain", "content_encoding": "utf-8"}
    publication = Publication({}, properties, msg.encode(), exchange=exchange, routing_key=routing_key)
    with friendly_errors():
        session.client.publish([publication])
    click.echo("OK")


@main.command("basic.get")
@click.argument("queue")
@click.argument("no_ack", type=bool, default=False)
@click.pass_obj
def basic_get(session: Session, queue: str, no_ack: bool) -> None:
    """Show one message; it goes back when this ends, unless NO_ACK is true or it is acknowledged in the shell."""
    with friendly_errors():
        found = session.get(queue, no_ack)
    click.echo(pformat(found) if found else "No messages in the queue.")


@main.command("basic.ack")
@click.argument("delivery_tag", type=int)
@click.pass_obj
def basic_ack(session: Session, delivery_tag: int) -> None:
    """Acknowledge a message that was got in this shell: it is gone then."""
    with friendly_errors():
        session.ack(delivery_tag)
    click.echo("OK")


def _refuse(name: str, hint: str) -> None:
    @main.command(name, help=f"Not supported: {hint}.")
    @click.argument("arguments", nargs=-1)
    def refused(arguments: tuple[str, ...]) -> None:
        stop(f"{name} is not supported", hint)


_refuse("exchange.declare", "queue.bind declares an exchange along with its queue (--type)")
_refuse("exchange.delete", _ELSEWHERE)
_refuse("queue.delete", _ELSEWHERE)
