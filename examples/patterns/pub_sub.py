"""Publish and subscribe: whoever listens now hears it. Nothing is kept for those who do not.

celeriac -A pub_sub worker                 # in one terminal, in this folder
python pub_sub.py                          # in another
"""

import asyncio
import os

from celeriac import Celery

app = Celery("pub_sub", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND", ""))


@app.task
def quote(symbol: str, prices: list[int]) -> None:
    """Tells prices, whoever hears them."""
    for price in prices:
        app.emit(f"price.{symbol}", price)


async def watch(count: int) -> list[str]:
    """The same in a coroutine: the event loop goes on meanwhile."""
    async with app.subscribe("price.acme", timeout=30) as prices:
        sent = quote.delay("acme", [12, 13])
        found = []
        async for event in prices:
            found.append(f"{event.type} {event.data}")
            if len(found) == count:
                break
        await sent
        return found


if __name__ == "__main__":
    quote.delay("acme", [1, 2, 3]).get(timeout=30)  # nobody listens yet: these are gone

    with app.subscribe("price.*", timeout=30) as everything, app.subscribe("price.acme", timeout=30) as acme:
        quote.delay("acme", [10, 11]).get(timeout=30)
        quote.delay("other", [7]).get(timeout=30)
        for name, subscription, count in [("all", everything, 3), ("acme", acme, 2)]:
            heard = [next(subscription) for _ in range(count)]
            print(f"{name}:", ", ".join(f"{event.type} {event.data}" for event in heard))
        print("missed:", everything.missed)

    print("async:", ", ".join(asyncio.run(watch(2))))
