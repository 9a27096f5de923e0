"""A client of the project, made by Celery: calls everything there is, and prints what it saw as JSON."""

import json
import os
import re
import sys
import time

import shop
from celery.result import GroupResult

PATIENCE = float(os.environ.get("SHOP_PATIENCE", "30"))
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LIBRARY = re.compile(r"^(celery|celeriac)\.")


def seen_of(result):
    """What a client knows in the end: state, value or error, what the record says of children."""
    deadline = time.monotonic() + PATIENCE
    while result.state not in {"SUCCESS", "FAILURE", "REVOKED", "FROZEN"} and time.monotonic() < deadline:
        time.sleep(0.02)
    value = result.result
    if isinstance(value, shop.Money):
        value = ["money", value.cents]
    if isinstance(value, BaseException):
        value = [type(value).__module__, type(value).__name__, [UUID.sub("<id>", str(arg)) for arg in value.args]]
    traceback = (result.traceback or "").strip().splitlines()
    return {
        "state": result.state,
        "value": value,
        "traceback": LIBRARY.sub("", UUID.sub("<id>", traceback[-1])) if traceback else None,
        "children": len(result.children or ()),
    }


def group_of(result):
    return [seen_of(one) for one in result.results] if isinstance(result, GroupResult) else seen_of(result)


CALLS = {
    "add": lambda: shop.add.delay(2, 3),
    "context": lambda: shop.context.delay(),
    "hooked": lambda: shop.hooked.delay("fine"),
    "hooked fails": lambda: shop.hooked.delay("fail"),
    "hooked retries": lambda: shop.hooked.delay("retry"),
    "auto": lambda: shop.auto.delay(2),
    "auto gives up": lambda: shop.auto.delay(9),
    "about": lambda: shop.about.apply_async(kwargs={"a": 1}, headers={"tenant": "acme"}),
    "tenant": lambda: shop.tenant.delay(),
    "progress": lambda: shop.progress.delay(),
    "states itself": lambda: shop.states_itself.delay(),
    "rejects": lambda: shop.rejects.delay(),
    "soft limit": lambda: shop.soft.delay(),
    "hard limit": lambda: shop.hard.delay(),
    "calls": lambda: shop.calls.delay(1),
    "replaces": lambda: shop.replaces.delay(1),
    "money": lambda: shop.money.delay(shop.Money(21)),
    "reversed": lambda: shop.backwards.delay(["a", "b"]),
    "annotated": lambda: shop.annotated.delay(),
    "unencodable": lambda: shop.unencodable.delay(),
    "shared": lambda: shop.shared.delay(4),
    "class": lambda: shop.report.delay("sales", "stock"),
    "routed": lambda: shop.paid.delay(),
    "queue object": lambda: shop.about.apply_async(queue=shop.app.amqp.queues["orders"]),
    "by name": lambda: shop.app.send_task("shop.add", (20, 22)),
    "linked": lambda: shop.add.apply_async((1, 1), link=[shop.linked.s("one"), shop.linked.s("two")]),
    "error links": lambda: shop.hooked.apply_async(
        ("fail",), link_error=[shop.old_errback.s("old"), shop.new_errback.s("new")]
    ),
    "expired": lambda: shop.add.apply_async((1, 1), expires=-10),
    "unpacked badly": lambda: shop.app.send_task("shop.add", (1,)),
}


def main():
    shop.silent.delay()
    sent = {name: call() for name, call in CALLS.items()}
    canvas = {name: make().apply_async() for name, make in shop.CANVAS.items()}
    seen = {name: seen_of(result) for name, result in sent.items()}
    for name, result in canvas.items():
        parents, parent = [], result.parent
        while parent is not None and "cut" not in name:
            parents.append(group_of(parent))
            parent = parent.parent
        seen[name] = {"last": None if "cut" in name else group_of(result), "before": parents}
    # The notes of what came after: links are sent with the outcomes.
    shop.add.delay(0, 0).get(timeout=PATIENCE)
    ids = {name: result.id for name, result in {**sent, **canvas}.items()}
    json.dump({"seen": seen, "ids": ids}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)


main()
