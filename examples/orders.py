"""A workflow: the pictures of an order are made in several sizes, published together, and the customer is told.

celeriac -A orders worker                                          # in one terminal, in this folder
python orders.py                                                   # in another; `orders.py blurred-18` fails
celeriac graph workflow orders:make_flow -o orders.svg             # its picture
"""

import sys
from typing import Any

from celeriac import Celery
from celeriac.canvas import chain, group

app = Celery("orders", broker="sqlite:///orders.db", backend="sqlite:///orders.db", result_extended=True)


@app.task
def fetch(order: str) -> str:
    """Where the picture of an order is."""
    return f"{order}.jpg"


@app.task
def resize(picture: str, width: int) -> str:
    """A smaller one."""
    return f"{width}-{picture}"


@app.task
def upload(picture: str) -> str:
    """Where everybody sees it."""
    return f"https://pictures.example/{picture}"


@app.task
def describe(picture: str) -> str:
    """What is on it."""
    if "blurred" in picture:
        raise ValueError("nothing can be seen on it")
    return f"a picture named {picture}"


@app.task
def publish(parts: list[str]) -> str:
    """A page of all parts."""
    return " | ".join(parts)


@app.task
def tell(page: str, customer: str) -> str:
    """Tells the customer of it."""
    return f"{customer}: {page}"


@app.task
def alert(request: Any, exc: Exception, traceback: Any) -> None:
    """Called when the description fails."""
    print(f"{request.id} failed: {exc!r}")


def make_flow(order: str = "order-17", customer: str = "ann@example.com") -> Any:
    """The workflow of one order, not sent yet."""
    sizes = [resize.s(width) | upload.s() for width in (200, 800)]
    return chain(
        fetch.s(order),
        group(*sizes, describe.s().on_error(alert.s())),
        publish.s(),
        tell.s(customer=customer),
    )


if __name__ == "__main__":
    result = make_flow(*sys.argv[1:]).apply_async()
    print(result.id)
    print(result.get(timeout=30))
