"""Small functions for serializers, and exceptions that can be pickled."""

from __future__ import annotations

import pickle
from base64 import b64decode as _decode
from base64 import b64encode as _encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from itertools import takewhile
from numbers import Real
from typing import Any

__all__ = [
    "UnpickleableExceptionWrapper",
    "b64decode",
    "b64encode",
    "create_exception_cls",
    "ensure_serializable",
    "find_pickleable_exception",
    "get_pickleable_etype",
    "get_pickleable_exception",
    "get_pickled_exception",
    "itermro",
    "jsonify",
    "raise_with_context",
    "strtobool",
    "subclass_exception",
]

#: Classes that say nothing of an exception.
unwanted_base_classes = (Exception, BaseException, object)
STRTOBOOL_DEFAULT_TABLE = {
    **dict.fromkeys(("false", "no", "0", "off"), False),
    **dict.fromkeys(("true", "yes", "1", "on"), True),
}


def subclass_exception(name: str, parent: type[BaseException], module: str) -> type[BaseException]:
    """A new exception class."""
    return type(name, (parent,), {"__module__": module})


def create_exception_cls(name: str, module: str, parent: type[BaseException] | None = None) -> type[BaseException]:
    """A new exception class; below `Exception` unless told otherwise."""
    return subclass_exception(name, parent or Exception, module)


def itermro(cls: type, stop: Collection[type]) -> Iterator[type]:
    """The class and its bases, up to one of `stop`."""
    return takewhile(lambda base: base not in stop, cls.__mro__)


def find_pickleable_exception(
    exc: BaseException, loads: Callable[[bytes], Any] = pickle.loads, dumps: Callable[[Any], bytes] = pickle.dumps
) -> BaseException | None:
    """An exception of the nearest base class that can be pickled; None when there is none below `Exception`."""
    for base in itermro(type(exc), unwanted_base_classes):
        try:
            found: BaseException = base(*exc.args)
            loads(dumps(found))
        except Exception:  # noqa: S112 -- the next one may do
            continue
        return found
    return None


def ensure_serializable(items: Iterable[Any], encoder: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The items; the repr of those that the encoder refuses."""
    safe = []
    for item in items:
        try:
            encoder(item)
        except Exception:
            item = _safe_repr(item)
        safe.append(item)
    return tuple(safe)


class UnpickleableExceptionWrapper(Exception):
    """Stands for an exception that cannot be pickled.

    Args:
        exc_module: Module of its class.
        exc_cls_name: Name of its class.
        exc_args: Its arguments.
        text: What `str` gives.
    """

    def __init__(self, exc_module: str, exc_cls_name: str, exc_args: Iterable[Any], text: str | None = None) -> None:
        args = ensure_serializable(exc_args, lambda value: pickle.loads(pickle.dumps(value)))
        super().__init__(exc_module, exc_cls_name, args, text)
        self.exc_module, self.exc_cls_name, self.exc_args, self.text = exc_module, exc_cls_name, args, text

    def restore(self) -> BaseException:
        """An exception of a class of that name."""
        return create_exception_cls(self.exc_cls_name, self.exc_module)(*self.exc_args)

    @classmethod
    def from_exception(cls, exc: BaseException) -> UnpickleableExceptionWrapper:
        """What stands for this one."""
        made = cls(type(exc).__module__, type(exc).__name__, exc.args, _safe_repr(exc))
        return made.with_traceback(exc.__traceback__)

    def __str__(self) -> str:
        return self.text or ""


def get_pickleable_exception(exc: BaseException) -> BaseException:
    """The exception, or what stands for it when it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(exc))
    except Exception:
        return find_pickleable_exception(exc) or UnpickleableExceptionWrapper.from_exception(exc)
    return exc


def get_pickleable_etype(
    cls: type, loads: Callable[[bytes], Any] = pickle.loads, dumps: Callable[[Any], bytes] = pickle.dumps
) -> type:
    """The class, or `Exception` when it cannot be pickled."""
    try:
        loads(dumps(cls))
    except Exception:
        return Exception
    return cls


def get_pickled_exception(exc: BaseException) -> BaseException:
    """The exception that another one stands for."""
    return exc.restore() if isinstance(exc, UnpickleableExceptionWrapper) else exc


def b64encode(s: str | bytes) -> str:
    """Base 64, as text."""
    return _encode(_bytes(s)).decode()


def b64decode(s: str | bytes) -> bytes:
    """What base 64 stands for."""
    return _decode(_bytes(s))


def strtobool(term: Any, table: Mapping[str, bool] | None = None) -> Any:
    """The truth value of a word; what is no text stays as it is.

    Raises:
        TypeError: It is no such word.
    """
    if not isinstance(term, str):
        return term
    try:
        return (table or STRTOBOOL_DEFAULT_TABLE)[term.lower()]
    except KeyError:
        raise TypeError(f"{term!r} is no truth value") from None


def jsonify(
    obj: Any,
    builtin_types: tuple[type, ...] = (Real, str),
    key: Any = None,
    keyfilter: Callable[[Any], Any] | None = None,
    unknown_type_filter: Callable[[Any], Any] | None = None,
) -> Any:
    """The object in types that JSON has.

    Args:
        obj: The object.
        builtin_types: What is kept as it is.
        key: Of the object in its mapping.
        keyfilter: Says which keys of mappings are kept.
        unknown_type_filter: Converts other types.

    Raises:
        ValueError: There is another type, and nothing converts it.
    """

    def inner(value: Any, key: Any = key) -> Any:
        return jsonify(value, builtin_types, key, keyfilter, unknown_type_filter)

    as_dict = getattr(obj, "as_dict", None)
    if as_dict is not None:
        obj = as_dict(recurse=True)
    if obj is None or isinstance(obj, builtin_types):
        return obj
    if isinstance(obj, (tuple, list)):
        return [inner(value) for value in obj]
    if isinstance(obj, dict):
        return {key: inner(value, key) for key, value in obj.items() if not keyfilter or keyfilter(key)}
    if isinstance(obj, (date, time)):
        return _moment(obj)
    if isinstance(obj, timedelta):
        return str(obj)
    if unknown_type_filter is None:
        raise ValueError(f"Unsupported type: {type(obj)!r} {obj!r} (parent: {key})")
    return unknown_type_filter(obj)


def raise_with_context(exc: BaseException) -> None:
    """Raises an exception, caused by the one that is being handled."""
    import sys

    present = sys.exc_info()[1]
    if present is None:
        raise exc
    if present is exc:
        raise  # noqa: PLE0704 -- within a handler, as just seen
    raise exc from present


def _moment(value: date | time) -> str:
    text = value.isoformat()
    if isinstance(value, (datetime, time)) and value.microsecond:
        head, _, rest = text.partition(".")
        text = f"{head}.{rest[:3]}{rest[6:]}"
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _safe_repr(obj: object) -> str:
    try:
        return repr(obj)
    except Exception:
        return f"<{type(obj).__name__}: repr() failed>"
