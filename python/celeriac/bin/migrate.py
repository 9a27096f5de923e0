"""`migrate`: moves messages from one broker to another, exactly as they are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from celeriac.bin.connect import client_for, consumer_name
from celeriac.bin.options import EXIT_FAILURE, CommaList, Shared, command, friendly_errors, progress_bar, stop

if TYPE_CHECKING:
    from celeriac._core import Consumer, Delivery
    from celeriac.app.base import Celery

#: Messages that are taken, sent and acknowledged together.
BATCH = 200
#: How long a message stays taken should this process be lost; what is held is renewed with each batch.
LEASE_SECONDS = 120.0
#: How long one batch may take to be sent, attempts included.
SEND_SECONDS = 60.0


@dataclass(slots=True)
class Count:
    """What has been done so far."""

    sent: int = 0
    skipped: int = 0
    #: Sent, but claimed by somebody else meanwhile: they are in both places.
    twice: int = 0


@command(name="migrate")
@click.argument("source")
@click.argument("destination")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Move at most so many tasks.")
@click.option("-t", "--timeout", type=click.FloatRange(min=0), default=1.0, show_default=True,
              help="Seconds without a message after which a queue is taken for empty.")  # fmt: skip
@click.option("-a", "--ack-messages", is_flag=True, help="Take them away from the source; otherwise they are copied.")
@click.option("-T", "--tasks", type=CommaList(), help="Tasks of these names only.")
@click.option("-Q", "--queues", type=CommaList(), help="These queues only; old:new sends to another one.")
@click.option("-F", "--forever", is_flag=True, help="Go on until stopped by Ctrl-C.")
def main(shared: Shared, /, source: str, destination: str, **given: Any) -> None:
    """Move the messages of the app's queues from the broker SOURCE to the broker DESTINATION (URLs).

    Each message is confirmed by the destination before it is acknowledged at the source, so it is never nowhere; should
    this be cut off, the last batch may be in both. Ids, headers, bodies and priorities stay as they are. Without -a
    the source keeps its messages.
    """
    app = shared.load_app()
    with friendly_errors():
        moving = Migration(app, source, destination, **given)
        try:
            moving.run(quiet=shared.quiet)
        except KeyboardInterrupt:
            shared.error("Stopped.")
        finally:
            moving.close()
    moving.report(shared)


class Migration:
    """Moves messages.

    1. takes a batch from the source, under a lease;
    2. sends it to the destination, and waits until that has it;
    3. acknowledges it at the source, or keeps it until the end and gives it back.
    """

    def __init__(
        self,
        app: Celery,
        source: str,
        destination: str,
        *,
        limit: int | None,
        timeout: float,
        ack_messages: bool,
        tasks: list[str] | None,
        queues: list[str] | None,
        forever: bool,
    ) -> None:
        if source == destination:
            stop("source and destination are the same broker")
        self._limit = limit
        self._timeout = timeout
        self._ack = ack_messages
        self._tasks = frozenset(tasks or ())
        self._forever = forever
        self._names = _queue_names(app, queues)
        self.count = Count()
        #: Messages that the source parks, and did not give.
        self.parked: dict[str, int] = {}
        self._source = client_for(app, source)
        self._destination = client_for(app, destination)
        self._consumer: Consumer | None = None

    def run(self, *, quiet: bool) -> None:
        """Moves until nothing comes any more, the limit is reached, or forever.

        Raises:
            OperationalError: A broker cannot be reached; what was taken and not sent goes back.
        """
        # Before anything is taken: a destination that is not there is told at once.
        self._destination.examine_broker()
        self._unpark()
        total = self._waiting()
        self._consumer = self._source.consume(list(self._names), consumer_name("migrate"), LEASE_SECONDS)
        with progress_bar(min(total, self._limit or total), "Migrating", hidden=quiet or self._forever) as advance:
            for deliveries in self._batches(self._consumer):
                advance(self._carry(self._consumer, deliveries))

    def close(self) -> None:
        """Gives back what was taken and not acknowledged."""
        try:
            if self._consumer is not None:
                self._consumer.close()
        finally:
            self._source.close()
            self._destination.close()

    def report(self, shared: Shared) -> None:
        """Prints the counts; ends with an error when something was left behind that should not."""
        count = self.count
        click.echo(f"{'Moved' if self._ack else 'Copied'} {count.sent} messages.")
        if not self._ack and count.sent:
            shared.error("The source keeps them: to move them, give -a (--ack-messages).")
        if count.skipped:
            shared.error(f"Left {count.skipped} messages of other tasks (-T).")
        if waiting := sum(self.parked.values()):
            shared.error(
                f"Left {waiting} messages that wait for their time at the source (ETA, countdown)"
                + (": workers there still run them when they are due." if self._ack else ": only -a moves them.")
            )
        if count.twice:
            stop(
                f"{count.twice} messages were sent, but the source gave them to somebody else meanwhile",
                "they are in both brokers: is a worker still connected to the source?",
                EXIT_FAILURE,
            )

    def _unpark(self) -> None:
        """What waits for its time is made to move along; its `eta` header tells the workers of the destination."""
        from celeriac.exceptions import ImproperlyConfigured

        if self._ack:
            for name in self._names:
                try:
                    self._source.unpark(name)
                except ImproperlyConfigured:
                    break  # A store that cannot: what it has parked is told in the end.
        self.parked = {
            status["name"]: status["parked"]
            for status in self._source.queues()
            if status["name"] in self._names and status["parked"]
        }

    def _waiting(self) -> int:
        return sum(status["ready"] for status in self._source.queues() if status["name"] in self._names)

    def _batches(self, consumer: Consumer) -> Iterator[list[Delivery]]:
        """Takes batches that may be sent; what the filter leaves out stays taken, so that it is not given again."""
        while self._limit is None or self.count.sent < self._limit:
            wanted = BATCH if self._limit is None else min(BATCH, self._limit - self.count.sent)
            deliveries = consumer.claim(wanted, self._timeout)
            if deliveries:
                yield deliveries
            elif not self._forever:
                return
            else:
                consumer.renew()
                # A store that answers at once although there is nothing must not be asked in a loop.
                time.sleep(0.01)

    def _carry(self, consumer: Consumer, deliveries: list[Delivery]) -> int:
        wanted = [delivery for delivery in deliveries if self._is_wanted(delivery)]
        self.count.skipped += len(deliveries) - len(wanted)
        if wanted:
            publications = [delivery.publication(*self._target(delivery)) for delivery in wanted]
            self._destination.publish(publications, SEND_SECONDS, (None, 0.0, 0.2, 1.0))
            if self._ack:
                self.count.twice += consumer.settle([delivery.claim for delivery in wanted], "ack")
            self.count.sent += len(wanted)
        if not consumer.renew() and not self._ack:
            stop("the source gave what was taken to others", "try again when no worker is busy there", EXIT_FAILURE)
        return len(deliveries)

    def _is_wanted(self, delivery: Delivery) -> bool:
        if not self._tasks:
            return True
        return (delivery.headers or {}).get("task") in self._tasks

    def _target(self, delivery: Delivery) -> tuple[str, str]:
        """Where it goes: the exchange and key it came with, or straight to the queue that `old:new` names."""
        other = self._names[delivery.queue]
        if other is not None:
            return "", other
        if delivery.exchange or delivery.routing_key == delivery.queue:
            return delivery.exchange, delivery.routing_key
        return "", delivery.queue


def _queue_names(app: Celery, wanted: list[str] | None) -> dict[str, str | None]:
    """Queue at the source -> queue at the destination; None: where exchange and routing key lead."""
    from celeriac.app.options import consumed_queues

    if not wanted:
        return dict.fromkeys(consumed_queues(app, None))
    pairs = (name.partition(":") for name in wanted)
    names: dict[str, str | None] = {old: new or None for old, _, new in pairs}
    consumed_queues(app, names)
    return names
