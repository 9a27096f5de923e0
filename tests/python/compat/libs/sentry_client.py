"""A web request that sends tasks, as sentry-sdk sees it."""

import json

import sentry_app
import sentry_sdk

sentry_app.start()
saw = {}
with sentry_sdk.start_transaction(name="request") as transaction:
    saw["trace"] = transaction.trace_id
    saw["add"] = sentry_app.add.delay(2, 3).get(timeout=20)
    saw["headers"] = sentry_app.headers.delay().get(timeout=20)
    saw["sent by name"] = sentry_app.app.send_task("sentry_app.add", (5, 6)).get(timeout=20)
    child = sentry_app.parent.delay()
    saw["child"] = sentry_app.app.AsyncResult(child.get(timeout=20)).get(timeout=20)
failed = sentry_app.fail.delay("bad value")
failed.get(timeout=20, propagate=False)
saw["failed"] = failed.id
saw["retried"] = sentry_app.fail.delay("retry").get(timeout=20)
saw["expected"] = repr(sentry_app.fail.delay("expected").get(timeout=20, propagate=False))
sentry_sdk.flush()
print(json.dumps(saw))
