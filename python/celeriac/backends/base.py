"""`BaseBackend`: the base of result backends that are written in Python.

A subclass says how a record is stored, read and removed. A worker's children call it directly, as Celery's do; clients
read through it, asking again and again, for such a store tells nobody when a result has come.
"""

from __future__ import annotations

import logging
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac._state import get_current_app, get_current_task
from celeriac.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    ChordError,
    ImproperlyConfigured,
    TaskRevokedError,
    TimeoutError,
)
from celeriac.serialization import failure, registry
from celeriac.utils.einfo import ExceptionInfo
from celeriac.utils.lru import LRUCache

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.context import Context

__all__ = ["Backend", "BaseBackend", "BaseDictBackend", "DisabledBackend", "SyncBackendMixin", "get_current_task"]

logger = logging.getLogger("celery.backends.base")

#: Serializers that can write an exception as it is.
EXCEPTION_ABLE_CODECS = frozenset({"pickle"})

_NO_BACKEND = "results are off: no result backend is configured. Set `result_backend`"


class _Forgetful(dict[str, Any]):
    """A cache that keeps nothing."""

    def __setitem__(self, key: str, value: Any) -> None:
        """Keeps nothing."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Keeps nothing."""


class Backend:
    """A result backend.

    Subclasses implement `_store_result`, `_get_task_meta_for`, `_forget`, and for groups `_save_group`,
    `_restore_group` and `_delete_group`.

    Args:
        app: The app.
        serializer: Name of the serializer of results (`result_serializer`).
        max_cached_results: Records that are kept in memory (`result_cache_max`); -1: none.
        accept: Content types that are read (`result_accept_content`).
        expires: Seconds that records are kept, or a timedelta (`result_expires`).
        expires_type: What `expires` is converted to.
        url: The URL of `result_backend`, if it was one.
        **kwargs: For subclasses.
    """

    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    EXCEPTION_STATES = states.EXCEPTION_STATES
    TimeoutError = TimeoutError

    #: Seconds between looks at single results of many; None: no wait.
    subpolling_interval: float | None = None
    #: Whether there is a `get_many`.
    supports_native_join = False
    #: Whether records vanish by themselves; otherwise `celery.backend_cleanup` calls `cleanup`.
    supports_autoexpire = False
    supports_result_compression = False
    supports_failure_expires = False
    persistent = True
    is_async = False

    def __init__(
        self,
        app: Celery,
        serializer: str | None = None,
        max_cached_results: int | None = None,
        accept: Any = None,
        expires: float | timedelta | None = None,
        expires_type: Callable[[Any], Any] | None = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        conf = app.conf
        self.serializer: str = serializer or conf.result_serializer
        codec = registry.codec(self.serializer)
        self.content_type, self.content_encoding = codec.content_type, codec.content_encoding
        self.encoder = codec.encode
        limit = max_cached_results or conf.get("result_cache_max")
        self._cache: Any = _Forgetful() if limit == -1 else LRUCache(limit=limit)
        self.expires = self.prepare_expires(expires, expires_type)
        if accept is None:
            accept = conf.result_accept_content
        if accept is None:
            accept = {*conf.accept_content, self.serializer}
        self.accept = registry.prepare_accept_content(accept)
        self.always_retry = bool(conf.get("result_backend_always_retry"))
        self.max_sleep_between_retries_ms: int = conf.get("result_backend_max_sleep_between_retries_ms") or 10_000
        self.base_sleep_between_retries_ms: int = conf.get("result_backend_base_sleep_between_retries_ms") or 10
        retries = conf.get("result_backend_max_retries")
        self.max_retries: float = float("inf") if retries is None else retries
        self.thread_safe = bool(conf.get("result_backend_thread_safe"))
        self.url = url

    def as_uri(self, include_password: bool = False) -> str:
        """Where it is, for people to read."""
        from celeriac.utils.urls import without_password

        url = self.url or ""
        return url if include_password else without_password(url)

    # -- what subclasses implement

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not store results")

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        raise NotImplementedError(f"{type(self).__name__} does not read results")

    def _forget(self, task_id: str) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not remove results")

    def _save_group(self, group_id: str, result: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not store groups")

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        raise NotImplementedError(f"{type(self).__name__} does not read groups")

    def _delete_group(self, group_id: str) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not remove groups")

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Whether an error of the store may go away by itself; for `result_backend_always_retry`."""
        return False

    def on_backend_retryable_error(self, exc: BaseException) -> None:
        """Called before such a call is tried again."""

    def cleanup(self) -> None:
        """Removes records that have expired, where they do not vanish by themselves."""

    def process_cleanup(self) -> None:
        """Called after a task, by Celery's workers."""

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """Called before a message is sent, by Celery's clients."""
        return {}

    # -- storing

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Stores a state and its value, an exception as a document.

        Raises:
            EncodeError: The value cannot be encoded.
        """
        encoded = self.encode_result(result, state)
        # By position: subclasses name these differently.
        store = partial(self._store_result, task_id, encoded, state, traceback, request=request, **kwargs)
        message = "failed to store result on the backend"
        self._ensure_retryable(store, fallback_exc=partial(BackendStoreError, message, task_id=task_id, state=state))
        return encoded

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """Stores that a task has begun."""
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> None:
        """Stores what a task returned; counts it, if it is part of a chord."""
        if store_result and not (request is not None and request.ignore_result):
            self.store_result(task_id, result, state, request=request)
        if request is not None and request.chord:
            self.on_chord_part_return(request, state, result)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Stores what a task raised; counts it, if it is part of a chord."""
        if store_result:
            self.store_result(task_id, exc, state, traceback=traceback, request=request)
        if request is not None and request.chord:
            self.on_chord_part_return(request, state, exc)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """Stores that a task was revoked; counts it, if it is part of a chord."""
        exc = TaskRevokedError(reason)
        if store_result:
            self.store_result(task_id, exc, state, traceback=None, request=request)
        if request is not None and request.chord:
            self.on_chord_part_return(request, state, exc)

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        """Stores why a task is tried again."""
        return self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def _ensure_retryable(
        self, func: Callable[..., Any], *args: Any, fallback_exc: Callable[[], Exception] | None = None, **kwargs: Any
    ) -> Any:
        """Calls the store; again, with `result_backend_always_retry`, after errors that may go away.

        Args:
            func: What is called with the other arguments.
            *args: Of `func`.
            fallback_exc: Makes what is raised after the last try.
            **kwargs: Of `func`.
        """
        retries = 0
        while True:
            try:
                return func(*args, **kwargs)
            except Exception as exc:
                if not self.always_retry or not self.exception_safe_to_retry(exc):
                    raise
                if retries >= self.max_retries:
                    if fallback_exc is None:
                        raise
                    raise fallback_exc() from exc
                retries += 1
                logger.warning("the result backend failed, trying again: %r", exc)
                self.on_backend_retryable_error(exc)
                longest = min(self.base_sleep_between_retries_ms * 2**retries, self.max_sleep_between_retries_ms)
                self._sleep(random.uniform(0, longest) / 1000)

    def _sleep(self, amount: float) -> None:
        time.sleep(amount)

    # -- reading

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """The record of a task: `status`, `result`, `traceback`, `children` and more."""
        self._ensure_not_eager()
        if cache and (known := self._cached(task_id)) is not None:
            return known
        gave_up = partial(BackendGetMetaError, "failed to get meta", task_id=task_id)
        meta: dict[str, Any] = self._ensure_retryable(self._get_task_meta_for, task_id, fallback_exc=gave_up)
        if cache and meta.get("status") == states.SUCCESS:
            self._cache[task_id] = meta
        return meta

    def _cached(self, key: str) -> dict[str, Any] | None:
        try:
            known: dict[str, Any] = self._cache[key]
        except KeyError:
            return None
        return known

    def is_cached(self, task_id: str) -> bool:
        """Whether the record is in memory."""
        return task_id in self._cache

    def reload_task_result(self, task_id: str) -> None:
        """Reads a record anew."""
        self._cache[task_id] = self.get_task_meta(task_id, cache=False)

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything is stored for a task."""
        return bool(self._get_task_meta_for(task_id)["status"] != states.PENDING)

    def get_state(self, task_id: str) -> str:
        """The state of a task."""
        return str(self.get_task_meta(task_id)["status"])

    get_status = get_state

    def get_traceback(self, task_id: str) -> str | None:
        """Where it failed."""
        return self.get_task_meta(task_id).get("traceback")

    def get_result(self, task_id: str) -> Any:
        """What it returned or raised."""
        return self.get_task_meta(task_id).get("result")

    def get_children(self, task_id: str) -> Any:
        """What it has sent."""
        return self.get_task_meta(task_id).get("children")

    def forget(self, task_id: str) -> None:
        """Removes the record of a task."""
        self._cache.pop(task_id, None)
        self._ensure_retryable(self._forget, task_id)

    def _ensure_not_eager(self) -> None:
        conf = self.app.conf
        if conf.task_always_eager and not conf.task_store_eager_result:
            warnings.warn(
                "with task_always_eager results are not stored, unless task_store_eager_result is on: there is nothing to read",
                RuntimeWarning,
                stacklevel=3,
            )

    # -- groups and chords

    def save_group(self, group_id: str, result: Any) -> Any:
        """Stores the result of a group."""
        return self._ensure_retryable(self._save_group, group_id, result)

    def get_group_meta(self, group_id: str, cache: bool = True) -> Any:
        """The record of a group."""
        if cache and (known := self._cached(group_id)) is not None:
            return known
        meta = self._ensure_retryable(self._restore_group, group_id)
        if cache and meta is not None:
            self._cache[group_id] = meta
        return meta

    def reload_group_result(self, group_id: str) -> None:
        """Reads the record of a group anew."""
        self._cache[group_id] = self.get_group_meta(group_id, cache=False)

    def restore_group(self, group_id: str, cache: bool = True) -> Any:
        """The result of a group that was saved; None: there is none."""
        meta = self.get_group_meta(group_id, cache=cache)
        return meta["result"] if meta else None

    def delete_group(self, group_id: str) -> Any:
        """Removes the record of a group."""
        self._cache.pop(group_id, None)
        return self._ensure_retryable(self._delete_group, group_id)

    def ensure_chords_allowed(self) -> None:
        """Raises where chords cannot be."""

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Called before the parts of a chord are sent; a backend that counts notes how many there are.

        Args:
            header_result_args: Id and results of the header's group.
            body: The body; its `chord_size` is the number of parts.
            **kwargs: `countdown`, `interval` and `max_retries` of the looks.
        """
        self.ensure_chords_allowed()
        self.fallback_chord_unlock(self.app.GroupResult(*header_result_args), body, **kwargs)

    def fallback_chord_unlock(
        self,
        header_result: Any,
        body: Any,
        countdown: float = 1,
        interval: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Sends the task that looks at the header of a chord until it is done."""
        from celeriac.canvas import unlock
        from celeriac.canvas.composition import Composition

        composition = Composition(self.app)
        unlock.plan(composition, body, header_result, unlock.Looks(interval, countdown, max_retries))
        self.app._send_composition(composition, {})

    def chord_error_from_stack(self, callback: Any, exc: BaseException | None = None) -> None:
        """Ends the body of a chord that cannot be called: whoever waits for it, and its error links, are told why.

        Args:
            callback: The body.
            exc: Why; what is being handled unless given.
        """
        exc = exc or sys.exc_info()[1] or ChordError("the chord cannot be completed")
        end = self.app._child_chord_error
        if end is not None:
            end(callback, exc)
        elif callback.id:
            self.store_result(callback.id, exc, states.FAILURE)

    def fail_from_current_stack(self, task_id: str, exc: BaseException | None = None) -> ExceptionInfo:
        """Stores what is being handled as the failure of a task."""
        exc = exc or sys.exc_info()[1] or RuntimeError("nothing was raised")
        einfo = ExceptionInfo(exc)
        self.mark_as_failure(task_id, exc, einfo.traceback)
        return einfo

    def on_chord_part_return(self, request: Context, state: str, result: Any, **kwargs: Any) -> None:
        """Called when a part of a chord has ended; for backends that count."""

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Called by Celery when a chord is sent; for backends that count."""

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Adds a part to a chord that has begun."""
        raise NotImplementedError(f"{type(self).__name__} does not support add_to_chord")

    # -- values

    def encode_result(self, result: Any, state: str) -> Any:
        """A value as it is stored."""
        if state in self.EXCEPTION_STATES and isinstance(result, BaseException):
            return self.prepare_exception(result)
        return self.prepare_value(result)

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """An exception as it is stored: a document, unless the serializer takes it as it is."""
        if (serializer or self.serializer) in EXCEPTION_ABLE_CODECS:
            return exc
        return failure.encode(exc, self.encoder)

    def exception_to_python(self, exc: Any) -> BaseException | None:
        """The exception of a document."""
        return failure.decode(exc)

    def prepare_value(self, result: Any) -> Any:
        """A value as it is stored: of a result object its ids."""
        if self.serializer != "pickle" and hasattr(result, "as_tuple") and hasattr(result, "ready"):
            return result.as_tuple()
        return result

    def encode(self, data: Any) -> Any:
        """Encodes: text, or bytes with a serializer that makes such."""
        return self._encode(data)[2]

    def _encode(self, data: Any) -> tuple[str, str, Any]:
        content_type, encoding, payload = registry.dumps(data, self.serializer)
        return content_type, encoding, payload if encoding == "binary" else payload.decode(encoding)

    def decode(self, payload: Any) -> Any:
        """Decodes what `encode` made."""
        if payload is None:
            return None
        if isinstance(payload, memoryview):
            payload = payload.tobytes()
        payload = payload or str(payload)
        if isinstance(payload, str):
            payload = payload.encode("utf-8" if self.content_encoding == "binary" else self.content_encoding)
        return registry.loads(payload, self.content_type, self.content_encoding, self.accept)

    def decode_result(self, payload: Any) -> dict[str, Any]:
        """The record of its bytes."""
        return self.meta_from_decoded(self.decode(payload))

    def meta_from_decoded(self, meta: dict[str, Any]) -> dict[str, Any]:
        """A record whose result is an exception where its state says so."""
        if meta["status"] in self.EXCEPTION_STATES:
            meta["result"] = self.exception_to_python(meta["result"])
        return meta

    def prepare_expires(self, value: Any, type: Callable[[Any], Any] | None = None) -> Any:
        """Seconds that records are kept."""
        if value is None:
            value = self.app.conf.result_expires
        if isinstance(value, timedelta):
            value = value.total_seconds()
        return type(value) if value is not None and type else value

    def prepare_persistent(self, enabled: bool | None = None) -> bool:
        """Whether records outlive the store's process."""
        if enabled is not None:
            return enabled
        persistent = self.app.conf.result_persistent
        return self.persistent if persistent is None else bool(persistent)

    def current_task_children(self, request: Any = None) -> list[Any] | None:
        """What a task has sent, as it is stored."""
        request = request or getattr(get_current_task(), "request", None)
        return [child.as_tuple() for child in getattr(request, "children", None) or ()] if request else None

    def _get_result_meta(
        self,
        result: Any,
        state: str,
        traceback: str | None,
        request: Any,
        format_date: bool = True,
        encode: bool = False,
    ) -> dict[str, Any]:
        """The record of a state, as Celery's key-value stores keep it."""
        done: Any = self.app.now() if state in self.READY_STATES else None
        meta = {
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": self.current_task_children(request),
            "date_done": done.isoformat() if done is not None and format_date else done,
        }
        if request is None:
            return meta
        if getattr(request, "group", None):
            meta["group_id"] = request.group
        if getattr(request, "parent_id", None):
            meta["parent_id"] = request.parent_id
        if self.app.conf.result_extended:
            meta.update(self._extended_meta(request, encode))
        return meta

    def _extended_meta(self, request: Any, encode: bool) -> dict[str, Any]:
        args, kwargs = getattr(request, "args", None), getattr(request, "kwargs", None)
        if encode:
            args, kwargs = (_as_bytes(self.encode(value)) for value in (args, kwargs))
        stamps = getattr(request, "stamps", None) or {}
        return {
            "name": getattr(request, "task", None),
            "args": args,
            "kwargs": kwargs,
            "worker": getattr(request, "hostname", None),
            "retries": getattr(request, "retries", None),
            "queue": (getattr(request, "delivery_info", None) or {}).get("routing_key"),
            **({"stamped_headers": request.stamped_headers, **stamps} if stamps else {}),
        }

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return _unpickle, (type(self), args, kwargs or {})


class SyncBackendMixin:
    """Waiting by asking again and again."""

    get_task_meta: Callable[..., dict[str, Any]]

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        """The record of a task, once it has ended.

        Raises:
            TimeoutError: It did not end in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (meta := self.get_task_meta(task_id))["status"] not in states.READY_STATES:
            if on_interval is not None:
                on_interval()
            left = interval if deadline is None else min(interval, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError("The operation timed out.")
            time.sleep(left)
        return meta

    def wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Callable[[], Any] | None = None,
        callback: Callable[[str, Any], Any] | None = None,
        propagate: bool = True,
    ) -> Any:
        """Waits for a result object."""
        if on_message is not None:
            raise ImproperlyConfigured("this result backend has no messages to tell of")
        return result.get(
            timeout=timeout, propagate=propagate, interval=interval, callback=callback, on_interval=on_interval
        )

    def iter_native(self, result: Any, **options: Any) -> Iterator[tuple[str, Any]]:
        """Pairs of id and record of the members of a set of results, as they end; options as of its `iter_native`."""
        yield from result.iter_native(**options)

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:
        """Nothing has to be subscribed to."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Nothing was subscribed to."""
        return result


class BaseBackend(Backend, SyncBackendMixin):
    """The base of backends written in Python."""


#: The name that older backends import.
BaseDictBackend = BaseBackend


class DisabledBackend(BaseBackend):
    """There are no results."""

    def __init__(self, app: Celery, *args: Any, **kwargs: Any) -> None:
        super().__init__(app)

    def store_result(self, *args: Any, **kwargs: Any) -> None:
        """Stores nothing."""

    def _is_disabled(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(_NO_BACKEND)

    get_state = get_status = get_result = get_traceback = _is_disabled
    get_task_meta = wait_for = get_many = _is_disabled

    def ensure_chords_allowed(self) -> None:
        """Chords need results.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"a chord needs a result backend; {_NO_BACKEND}")

    def as_uri(self, *args: Any, **kwargs: Any) -> str:
        """`disabled://`."""
        return "disabled://"


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _unpickle(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return cls(*args, app=get_current_app(), **kwargs)


def __getattr__(name: str) -> Any:
    # Celery has it in this module; it is a subclass of what is here.
    if name in {"BaseKeyValueStoreBackend", "KeyValueStoreBackend"}:
        from celeriac.backends.keyvalue import KeyValueStoreBackend

        return KeyValueStoreBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
