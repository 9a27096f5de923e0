"""Classes to ask with: whether something can be used as a task, or as a signature."""

from __future__ import annotations

from abc import ABCMeta

__all__ = ["CallableSignature", "CallableTask"]

_OF_TASKS: tuple[str, ...] = ("delay", "apply_async", "apply")
_OF_SIGNATURES = (
    *_OF_TASKS,
    "name",
    "type",
    "app",
    "id",
    "task",
    "args",
    "kwargs",
    "options",
    "clone",
    "freeze",
    "link",
)


class _Duck(ABCMeta):
    """The class of such classes: has as a subclass whatever has the attributes."""

    _wanted: tuple[str, ...]

    def __subclasscheck__(cls, other: type) -> bool:
        return super().__subclasscheck__(other) or all(
            any(name in base.__dict__ for base in other.__mro__) for name in cls._wanted
        )

    def __instancecheck__(cls, obj: object) -> bool:
        return cls.__subclasscheck__(type(obj))


class CallableTask(metaclass=_Duck):
    """What can be sent."""

    _wanted = _OF_TASKS


class CallableSignature(CallableTask):
    """What can be sent, linked and changed before."""

    _wanted = _OF_SIGNATURES
