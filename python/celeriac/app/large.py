"""Large payloads: arguments and results over a size go to a store, and messages and records say where they are.

| setting | default | |
|---|---|---|
| `large_payload_store` | none | `file:///directory`, `backend` (the result backend), an object with `put`, `get` and `delete`, or its dotted name |
| `large_payload_size` | 262,144 | bytes of an encoded body or record that are still sent as they are; 65,536 at the least |
| `large_payload_expires` | 604,800 | seconds that arguments are kept at the most; results are kept as long as their records |

What is put first and said after: a crash in between leaves a payload that nobody knows of, which expires. What arguments
were kept is deleted when their message is settled (the worker's supervisor is told of it by the engine), what results were
when they are forgotten; all else expires.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from celeriac.app import own, sizes
from celeriac.app.kept import KeptValues, kept_values, seconds
from celeriac.exceptions import ImproperlyConfigured, PayloadMissing
from celeriac.serialization import registry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celeriac._core import ResultRecord
    from celeriac.app.base import Celery

__all__ = ["CONTENT_TYPE", "MEMBER", "FileStore", "LargePayloads", "PayloadStore", "of_app"]

logger = logging.getLogger("celery.app.large")

#: Of messages whose body is elsewhere: Celery's workers refuse it by its name, and ours if they have no store.
CONTENT_TYPE = "application/x-celeriac-large"
#: The member of the header, and of a record's own member `celeriac`.
MEMBER = "large"
#: What a reader sees as the result who knows nothing of us.
NOTE = "kept outside of this record: see large_payload_store of celeriac"
#: Files that one sweep removes at the most.
SWEEP = 10_000
_REFERENCE_LENGTH = 1024
_NAME = re.compile(r"[0-9a-f]{32}")
#: A temporary file that is older was left by a process that died.
_LEFT_SECONDS = 3600.0
#: Further tries to read a payload while the store does not answer, and the seconds before each.
_PAUSES = (0.1, 0.5, 2.0)


class PayloadStore(Protocol):
    """What keeps payloads. Its methods are called by clients, children and the supervisor, from any thread."""

    def put(self, data: bytes, ttl: float | None) -> str:
        """Keeps bytes for so many seconds (None: for ever), and gives a text of up to 1,024 characters for them."""

    def get(self, reference: str) -> bytes:
        """Gives them; raises `KeyError` when they are not there (any more)."""

    def delete(self, reference: str) -> None:
        """Removes them; nothing happens when they are not there."""


class FileStore:
    """Files in a directory that all processes share. A file's time of modification is the moment at which it expires.

    Args:
        directory: Made when it is not there, for its owner alone.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    def put(self, data: bytes, ttl: float | None) -> str:
        """Writes a file; it is there as a whole or not at all."""
        name = secrets.token_hex(16)
        path = self._path(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # Two hundred years stand for ever.
        expires = time.time() + (6e9 if ttl is None else ttl)
        os.utime(draft, (expires, expires))
        draft.rename(path)
        return name

    def get(self, reference: str) -> bytes:
        """Reads a file."""
        try:
            return self._path(reference).read_bytes()
        except FileNotFoundError:
            raise KeyError(reference) from None

    def delete(self, reference: str) -> None:
        """Removes a file."""
        self._path(reference).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Removes files that have expired; says how many."""
        now, removed = time.time(), 0
        for path in self.directory.glob("??/*"):
            try:
                until = path.stat().st_mtime + (_LEFT_SECONDS if path.suffix else 0)
                if until < now:
                    path.unlink(missing_ok=True)
                    removed += 1
            except FileNotFoundError:
                continue
            if removed >= SWEEP:
                break
        return removed

    def _path(self, name: str) -> Path:
        # Names come from messages: nothing but our own ones may lead anywhere.
        if not _NAME.fullmatch(name):
            raise KeyError(name)
        return self.directory / name[:2] / name


class BackendStore:
    """The result backend, under keys of ours; payloads expire there by themselves."""

    def __init__(self, values: KeptValues) -> None:
        self._values = values

    def put(self, data: bytes, ttl: float | None) -> str:
        """Keeps a value."""
        name = secrets.token_hex(16)
        self._values.put(f"{MEMBER}:{name}", data, ttl)
        return name

    def get(self, reference: str) -> bytes:
        """Reads a value."""
        found = self._values.get(f"{MEMBER}:{self._checked(reference)}")
        if found is None:
            raise KeyError(reference)
        return found

    def delete(self, reference: str) -> None:
        """Removes a value."""
        self._values.delete(f"{MEMBER}:{self._checked(reference)}")

    def _checked(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise KeyError(name)
        return name


class LargePayloads:
    """The large payloads of one app.

    Raises:
        ImproperlyConfigured: A setting makes no sense.
    """

    def __init__(self, app: Celery) -> None:
        conf = app.conf
        self.store = _store(app, conf.large_payload_store)
        self.size = int(conf.large_payload_size)
        if self.size < sizes.NEVER_TOO_LARGE:
            raise ImproperlyConfigured(
                f"large_payload_size is {self.size}: it must be {sizes.NEVER_TOO_LARGE} at the least, since a store would "
                "make smaller messages slower"
            )
        self._expires = seconds(conf.large_payload_expires)
        self._largest = int(conf.worker_max_message_bytes or 0) or 256 * 1024 * 1024

    def put(self, data: bytes, ttl: float | None) -> dict[str, Any]:
        """Keeps a payload, and gives the member that says where.

        Raises:
            ImproperlyConfigured: What the store gives is no reference.
        """
        reference = self.store.put(data, ttl)
        if not isinstance(reference, str) or not 0 < len(reference) <= _REFERENCE_LENGTH:
            raise ImproperlyConfigured(
                f"put of the large_payload_store gave {reference!r:.100}: it must give a text of up to {_REFERENCE_LENGTH} "
                "characters"
            )
        return {"ref": reference, "size": len(data)}

    def get(self, member: Any) -> bytes:
        """The payload that a member tells of.

        Raises:
            PayloadMissing: It is not there (any more), or is another one.
        """
        reference, size = (member.get("ref"), member.get("size")) if isinstance(member, dict) else (None, None)
        if not isinstance(reference, str) or not 0 < len(reference) <= _REFERENCE_LENGTH or not isinstance(size, int):
            raise PayloadMissing("the reference to a large payload cannot be read")
        if size > self._largest:
            raise PayloadMissing(f"the large payload {reference} has {size} bytes, and {self._largest} are allowed")
        try:
            data = self._read(reference)
        except KeyError:
            raise PayloadMissing(
                f"the large payload {reference} is not in the large_payload_store (any more): it has expired or was deleted, "
                "or this process has another store"
            ) from None
        if len(data) != size:
            raise PayloadMissing(f"the large payload {reference} has {len(data)} bytes instead of {size}")
        return data

    def _read(self, reference: str) -> bytes:
        for pause in _PAUSES:
            try:
                return self.store.get(reference)
            except (KeyError, ImproperlyConfigured):
                raise
            except Exception as exc:
                logger.warning("the large_payload_store does not give %s, and is asked again: %r", reference, exc)
                time.sleep(pause)
        return self.store.get(reference)

    def delete(self, reference: str) -> None:
        """Removes a payload; what cannot be removed expires."""
        try:
            self.store.delete(reference)
        except Exception as exc:
            logger.warning("the large payload %s cannot be deleted, and will expire: %r", reference, exc)

    def sweep(self) -> None:
        """Removes what has expired, in a store that does not do that by itself."""
        sweep = getattr(self.store, "sweep", None)
        if sweep is not None:
            removed = sweep()
            if removed:
                logger.info("removed %s large payloads that had expired", removed)

    # -- messages

    def stow(
        self, data: bytes, headers: dict[str, Any], properties: dict[str, Any], due_ms: int | None = None
    ) -> bytes:
        """Puts a body away if it is large, and says so in header and properties.

        Args:
            data: The body.
            headers: Of its message.
            properties: Likewise.
            due_ms: When the message is due, if not now: the payload is kept for as long after that.

        Returns:
            The body to send.
        """
        if len(data) <= self.size:
            return data
        ttl = self._expires
        if ttl is not None and due_ms is not None:
            ttl += max(0.0, due_ms / 1000 - time.time())
        member = self.put(data, ttl)
        member["type"], member["encoding"] = properties["content_type"], properties["content_encoding"]
        headers[own.HEADER] = {**(headers.get(own.HEADER) or {}), MEMBER: member}
        properties["content_type"], properties["content_encoding"] = CONTENT_TYPE, "binary"
        return b"{}"

    def fetch(self, headers: dict[str, Any], properties: dict[str, Any]) -> bytes:
        """The opposite, for the child that opens a message. The member is taken out: a retry has a payload of its own.

        Raises:
            PayloadMissing: It is not there (any more).
        """
        members = headers.get(own.HEADER)
        member: Any = members.pop(MEMBER, None) if isinstance(members, dict) else None
        if members == {}:
            del headers[own.HEADER]
        data = self.get(member)
        properties["content_type"], properties["content_encoding"] = member.get("type"), member.get("encoding")
        return data

    # -- results

    def forget(self, records: Iterable[ResultRecord | None]) -> None:
        """Removes what these records tell of."""
        for record in records:
            member = None if record is None else _member_of_record(record)
            if member is not None and isinstance(member.get("ref"), str):
                self.delete(member["ref"])


def _member_of_record(record: ResultRecord) -> dict[str, Any] | None:
    """What a record says of its payload, if it is elsewhere."""
    data = getattr(record, "record", b"")
    # Those that do are short.
    if len(data) > 8192 or b"celeriac" not in data:
        return None
    try:
        document = registry.loads(data, record.content_type, "utf-8", None)
    except Exception:
        return None
    members = document.get(own.HEADER) if isinstance(document, dict) else None
    member = members.get(MEMBER) if isinstance(members, dict) else None
    return member if isinstance(member, dict) else None


def of_app(app: Celery) -> LargePayloads | None:
    """Those of an app; None where no store is set."""
    found: LargePayloads | None = app._large_payloads
    if found is None and app.conf.values_now()["large_payload_store"]:
        found = app._large_payloads = LargePayloads(app)
    return found


def stow(app: Celery, data: bytes, headers: dict[str, Any], properties: dict[str, Any], due_ms: int | None) -> bytes:
    """What is sent as the body of a message of an app that has a store: see `LargePayloads.stow`."""
    payloads = of_app(app)
    return data if payloads is None else payloads.stow(data, headers, properties, due_ms)


def _store(app: Celery, store: Any) -> PayloadStore:
    if isinstance(store, os.PathLike):
        return FileStore(store)
    if isinstance(store, str):
        if store == "backend":
            return BackendStore(kept_values(app, "large payloads"))
        url = urlsplit(store)
        if url.scheme == "file":
            path = unquote(url.path)
            if url.netloc not in {"", "localhost"} or not path.startswith("/") or path == "/":
                raise ImproperlyConfigured(f"large_payload_store {store!r} is not file:///an/absolute/directory")
            return FileStore(path)
        if url.scheme:
            raise ImproperlyConfigured(
                f"large_payload_store {store!r} is not known: use file:///directory, backend, or an object with put, get and "
                "delete (or its dotted name)"
            )
        from celeriac.utils.imports import symbol_by_name

        store = symbol_by_name(store)
    if isinstance(store, type):
        store = store()
    for name in ("put", "get", "delete"):
        if not callable(getattr(store, name, None)):
            raise ImproperlyConfigured(f"large_payload_store {store!r} has no method {name}")
    kept: PayloadStore = store
    return kept
