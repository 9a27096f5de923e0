"""Outbox: an order and the task that follows from it are committed together, or not at all.

celeriac -A outbox worker --outbox sqlite:///shop.db      # in one terminal, in this folder; sends what was left behind
python outbox.py                                          # in another
"""

import os
import signal
import subprocess
import sys
import time

from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import celeriac
from celeriac import Celery

DATABASE = os.environ.get("DATABASE", "sqlite:///shop.db")
app = Celery("outbox", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND", ""))
app.conf.update(outbox_url=DATABASE, outbox_poll_seconds=1)
engine = create_engine(DATABASE)


class Base(DeclarativeBase):
    """The tables of the shop."""


class Order(Base):
    """One row each."""

    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="new")


celeriac.outbox.table(Base.metadata)  # so that migrations know of it
Base.metadata.create_all(engine)


@app.task(acks_late=True, reject_on_worker_lost=True)
def bill(number: int) -> None:
    """May come twice, so it asks first whether there is something to do. The order is there: it was committed before."""
    with Session(engine) as session, session.begin():
        order = session.get_one(Order, number)
        if order.state == "new":
            order.state = "billed"


def buy(number: int, *, fails: bool = False, dies: bool = False) -> None:
    """What a web request does."""
    if dies:
        app.conf.outbox_direct = False  # it does not even begin to publish
    with Session(engine) as session, session.begin():
        session.add(Order(number=number))
        with celeriac.outbox(session):
            bill.delay(number)
        if fails:
            raise ValueError("no money")
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1:] == ["die"]:
        buy(3, dies=True)
    buy(1)
    try:
        buy(2, fails=True)
    except ValueError as exc:
        print("order 2 was rolled back:", exc)
    killed = subprocess.run([sys.executable, __file__, "die"], check=False)
    print("the process of order 3 ended with", killed.returncode)
    deadline = time.monotonic() + 30
    while True:
        with Session(engine) as session:
            orders = {order.number: order.state for order in session.scalars(select(Order))}
        if "new" not in orders.values() or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    print("orders:", orders)
