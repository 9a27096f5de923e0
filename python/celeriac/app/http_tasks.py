"""HTTP tasks: calls that a worker's engine makes, without Python and without a child."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celeriac import _state
from celeriac.app import http_calls
from celeriac.serialization import failure

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.task import Task
    from celeriac.canvas.signature import Signature
    from celeriac.result import AsyncResult

__all__ = ["DONE", "QUEUES", "TASK", "HttpTask", "add_tasks", "http_task"]

#: The task of a call, and the one that concludes it where something follows.
TASK = "celeriac.http"
DONE = "celeriac.http_done"
#: Where calls are sent, and where webhooks are.
QUEUE = "celeriac.http"
WEBHOOK_QUEUE = "celeriac.webhooks"
QUEUES = (QUEUE, WEBHOOK_QUEUE)


class HttpTask:
    """Sends HTTP requests as tasks.

    The result is a mapping: `status`, `headers` (names in lower case), `body` (decoded when it is JSON, else text, else
    base64) and `encoding` (`json`, `text` or `base64`). Answers of 2xx are successes; 408, 409, 425, 429, 5xx and a network
    that fails are tried again; every other answer is a failure.

    Example:
        >>> from celeriac import http_task
        >>> result = http_task("https://example.com/orders", {"id": 7}, timeout=10)
        >>> result.get()["status"]
        200
    """

    def __init__(self, app: Celery | None = None) -> None:
        self._app = app

    @property
    def app(self) -> Celery:
        """The app it sends by: its own, or the current one."""
        return self._app if self._app is not None else _state.get_current_app()

    def __call__(
        self,
        url: str,
        payload: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        webhook: Any = None,
        method: str = "POST",
        *,
        sign: bool | str = False,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Sends a call.

        Args:
            url: `http` or `https`. Workers refuse private addresses but those that `http_allow` names.
            payload: Sent as JSON; `bytes` are sent as they are. None sends no body.
            headers: Of the request. They travel in the message, and are in no log and no event.
            timeout: Seconds for the whole call; the setting `http_timeout` unless given.
            retries: How often it is tried again; the setting `http_retries` unless given.
            webhook: Called when the call has ended, see `Task.apply_async`.
            method: The method.
            sign: Sign it as a webhook, with the secret of this name, or with the usual one (True).
            **options: Those of `Task.apply_async`: `countdown`, `task_id`, `link`, `ignore_result`, ...

        Raises:
            TypeError: The payload cannot be sent.
            ValueError: The URL, a header, the method or a number cannot be used.
            OperationalError: The broker did not take it.
        """
        arguments = http_calls.arguments(url, payload, headers, timeout, retries, method, sign)
        return self.app.tasks[TASK].apply_async((), arguments, **_described(url, method, webhook, options))

    def s(
        self,
        url: str,
        payload: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        webhook: Any = None,
        method: str = "POST",
        *,
        sign: bool | str = False,
        **options: Any,
    ) -> Signature[Any]:
        """The same as a signature. In a chain, what the step before returns is the payload, unless there is one."""
        arguments = http_calls.arguments(url, payload, headers, timeout, retries, method, sign)
        signature: Signature[Any] = self.app.tasks[TASK].signature(
            (), arguments, **_described(url, method, webhook, options)
        )
        return signature

    def si(self, url: str, *args: Any, **kwargs: Any) -> Signature[Any]:
        """The same, taking nothing from the step before."""
        signature = self.s(url, *args, **kwargs)
        signature.set(immutable=True)
        signature["immutable"] = True
        return signature

    signature = s


def _described(url: str, method: str, webhook: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a call, with what monitors are shown of its arguments: nothing that may be secret."""
    if webhook is not None:
        options["webhook"] = webhook
    return dict(argsrepr="()", kwargsrepr=http_calls.shown(url, method), **options)


#: Sends by the current app.
http_task = HttpTask()


def add_tasks(app: Celery) -> None:
    """Registers what calls are named after."""
    if TASK not in app._tasks:
        app._task_from_fun(_http, name=TASK, bind=True, queue=QUEUE, serializer="json", acks_late=True)
    if DONE not in app._tasks:
        app._task_from_fun(_http_done, name=DONE, bind=True, acks_late=True)


def _http(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Only its name is a task's: the engine makes the call."""
    raise NotImplementedError(
        f"{self.name} is run by the engine of a worker that consumes from {QUEUE}: it cannot be called or routed elsewhere"
    )


def _http_done(self: Task[..., Any], state: str, result: Any) -> Any:
    """Concludes a call that something follows: gives what it gave, or raises why it failed."""
    if state == "SUCCESS":
        return result
    raise failure.decode(result) or RuntimeError("the call failed, and nothing says why")
