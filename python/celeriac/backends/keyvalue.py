"""`KeyValueStoreBackend`: the base of backends that know `get`, `set` and `delete`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from celeriac import states
from celeriac.backends.base import BaseBackend
from celeriac.exceptions import TimeoutError

__all__ = ["KeyValueStoreBackend"]


class KeyValueStoreBackend(BaseBackend):
    """Keeps records under Celery's keys.

    Subclasses implement `get`, `set` and `delete`, and perhaps `mget`.
    """

    task_keyprefix: Any = "celery-task-meta-"
    group_keyprefix: Any = "celery-taskset-meta-"
    chord_keyprefix: Any = "chord-unlock-"
    #: Whether there are `incr` and `expire`.
    implements_incr = False

    @staticmethod
    def key_t(key: str | bytes) -> bytes:
        """A key, or a part of one, as the store wants it: bytes, unless a subclass replaces this by `str`."""
        return key if isinstance(key, bytes) else key.encode()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self.app.conf.get("result_backend_transport_options") or {}
        prefix = options.get("global_keyprefix") or ""
        if prefix and prefix[-1] not in ":_-.":
            prefix += "_"
        for name in ("task_keyprefix", "group_keyprefix", "chord_keyprefix"):
            setattr(self, name, self._key(f"{prefix}{_text(getattr(self, name))}"))

    def _key(self, key: str | bytes) -> Any:
        # `key_t = str` in a subclass must not be bound to the object.
        return type(self).key_t(key)

    # -- what subclasses implement

    def get(self, key: Any) -> Any:
        """What is stored under a key; None: nothing."""
        raise NotImplementedError(f"{type(self).__name__} must implement get")

    def mget(self, keys: list[Any]) -> Any:
        """What is stored under keys: a list, or a mapping."""
        return [self.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> Any:
        """Stores a value under a key."""
        raise NotImplementedError(f"{type(self).__name__} must implement set")

    def _set_with_state(self, key: Any, value: Any, state: str) -> Any:
        return self.set(key, value)

    def delete(self, key: Any) -> Any:
        """Removes a key."""
        raise NotImplementedError(f"{type(self).__name__} must implement delete")

    def incr(self, key: Any) -> int:
        """Counts up."""
        raise NotImplementedError(f"{type(self).__name__} does not implement incr")

    def expire(self, key: Any, value: float) -> Any:
        """Lets a key vanish in so many seconds."""

    # -- keys

    def get_key_for_task(self, task_id: str, key: str = "") -> Any:
        """The key of a task's record."""
        return self._joined(self.task_keyprefix, task_id, key)

    def get_key_for_group(self, group_id: str, key: str = "") -> Any:
        """The key of a group's record."""
        return self._joined(self.group_keyprefix, group_id, key)

    def get_key_for_chord(self, group_id: str, key: str = "") -> Any:
        """The key of what a chord waits for."""
        return self._joined(self.chord_keyprefix, group_id, key)

    def _joined(self, prefix: Any, identity: Any, key: str) -> Any:
        if not identity:
            raise ValueError(f"an id must not be empty: {identity!r}")
        return self._key("").join([self._key(prefix), self._key(str(identity)), self._key(key)])

    # -- records

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        meta = self._get_result_meta(result, state, traceback, request)
        meta["task_id"] = task_id
        # A late repeat of a task must not change what it returned.
        if self._get_task_meta_for(task_id)["status"] != states.SUCCESS:
            self._set_with_state(self.get_key_for_task(task_id), self.encode(meta), state)
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        stored = self.get(self.get_key_for_task(task_id))
        return self.decode_result(stored) if stored else {"status": states.PENDING, "result": None}

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything is stored for a task."""
        return bool(self.get(self.get_key_for_task(task_id)))

    def _forget(self, task_id: str) -> None:
        self.delete(self.get_key_for_task(task_id))

    def _save_group(self, group_id: str, result: Any) -> Any:
        self._set_with_state(
            self.get_key_for_group(group_id), self.encode({"result": result.as_tuple()}), states.SUCCESS
        )
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        from celeriac.result.rebuild import result_from_tuple

        stored = self.get(self.get_key_for_group(group_id))
        if not stored:
            return None
        meta: dict[str, Any] = self.decode(stored)
        meta["result"] = result_from_tuple(meta["result"], self.app)
        return meta

    def _delete_group(self, group_id: str) -> None:
        self.delete(self.get_key_for_group(group_id))

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        max_iterations: int | None = None,
        READY_STATES: Any = states.READY_STATES,  # noqa: N803 -- its name in Celery
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Pairs of id and record, as tasks end.

        Raises:
            TimeoutError: Some did not end in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        missing = dict.fromkeys(map(str, task_ids))
        rounds = 0
        while missing:
            for task_id, meta in self._ready(list(missing), READY_STATES):
                del missing[task_id]
                if on_message is not None:
                    on_message(meta)
                yield task_id, meta
            rounds += 1
            if not missing or (max_iterations and rounds >= max_iterations):
                return
            left = interval if deadline is None else min(interval, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"Operation timed out ({timeout})")
            if on_interval is not None:
                on_interval()
            time.sleep(left)

    def _ready(self, task_ids: list[str], ready: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        keys = [self.get_key_for_task(task_id) for task_id in task_ids]
        found = self.mget(keys)
        values = [found.get(key) for key in keys] if hasattr(found, "items") else found
        for task_id, value in zip(task_ids, values, strict=True):
            if value is not None and (meta := self.decode_result(value))["status"] in ready:
                self._cache[task_id] = meta
                yield task_id, meta


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode()
