"""Attributes of a signature that are items of its dict."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

__all__ = ["Item", "Option"]

T = TypeVar("T")


class Item(Generic[T]):
    """An attribute that reads and writes an item."""

    def __init__(self, key: str, doc: str) -> None:
        self._key = key
        self.__doc__ = doc

    @overload
    def __get__(self, owner: None, cls: Any) -> Item[T]: ...
    @overload
    def __get__(self, owner: dict[str, Any], cls: Any) -> T: ...
    def __get__(self, owner: dict[str, Any] | None, cls: Any) -> Any:
        return self if owner is None else owner[self._key]

    def __set__(self, owner: dict[str, Any], value: T) -> None:
        owner[self._key] = value


class Option(Generic[T]):
    """An attribute that reads and writes one of the options; None where it is not given."""

    def __init__(self, key: str, doc: str) -> None:
        self._key = key
        self.__doc__ = doc

    @overload
    def __get__(self, owner: None, cls: Any) -> Option[T]: ...
    @overload
    def __get__(self, owner: dict[str, Any], cls: Any) -> T | None: ...
    def __get__(self, owner: dict[str, Any] | None, cls: Any) -> Any:
        return self if owner is None else owner["options"].get(self._key)

    def __set__(self, owner: dict[str, Any], value: T | None) -> None:
        owner["options"][self._key] = value
