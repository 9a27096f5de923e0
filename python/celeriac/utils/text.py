"""Small functions for texts."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from io import StringIO
from pprint import pformat
from typing import Any

__all__ = [
    "StringIO",
    "WhateverIO",
    "abbr",
    "abbrtask",
    "dedent",
    "dedent_initial",
    "ensure_newlines",
    "ensure_sep",
    "fill_paragraphs",
    "indent",
    "join",
    "match_case",
    "pluralize",
    "pretty",
    "remove_repeating",
    "remove_repeating_from_task",
    "simple_format",
    "str_to_list",
    "truncate",
]


class WhateverIO(StringIO):
    """A text stream that takes bytes too."""

    def __init__(self, v: str | bytes | None = None, *a: Any, **kw: Any) -> None:
        super().__init__(v.decode() if isinstance(v, bytes) else v or "", *a, **kw)

    def write(self, data: str | bytes) -> int:
        return super().write(data.decode() if isinstance(data, bytes) else data)


def str_to_list(s: Any) -> Any:
    """The items of a text, between commas; a list stays as it is."""
    return s.split(",") if isinstance(s, str) else s


def dedent_initial(s: str, n: int = 4) -> str:
    """The text without the `n` blanks that it may begin with."""
    return s[n:] if s[:n] == " " * n else s


def dedent(s: str, sep: str = "\n") -> str:
    """The lines without the blanks that they begin with."""
    return sep.join(dedent_initial(line) for line in s.splitlines())


def fill_paragraphs(s: str, width: int, sep: str = "\n") -> str:
    """The text with its lines broken at a width."""
    return sep.join(textwrap.fill(paragraph, width) for paragraph in s.split(sep))


def join(l: Iterable[str], sep: str = "\n") -> str:  # noqa: E741 -- Celery's
    """The texts that are not empty, joined."""
    return sep.join(item for item in l if item)


def ensure_sep(sep: str, s: str, n: int = 2) -> str:
    """The text with separators at its end, so that there are `n`."""
    return s + sep * (n - s.count(sep))


def ensure_newlines(s: str, n: int = 2) -> str:
    """The text with `n` ends of lines."""
    return ensure_sep("\n", s, n)


def abbr(S: str | None, max: int, ellipsis: str | bool = "...") -> str:  # noqa: N803 -- Celery's
    """A text of at most this length; three dots stand for the rest."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    return S[: max - len(ellipsis)] + ellipsis if isinstance(ellipsis, str) and ellipsis else S[:max]


def abbrtask(S: str | None, max: int) -> str:  # noqa: N803 -- Celery's
    """A task's name of at most this length: its module is shortened first."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    module, _, name = S.rpartition(".")
    return f"{abbr(module, max - len(name), False)}[.]{name}"


def indent(t: str, indent: int = 0, sep: str = "\n") -> str:
    """The lines, each with blanks in front."""
    return sep.join(" " * indent + part for part in t.split(sep))


def truncate(s: str, maxlen: int = 128, suffix: str = "...") -> str:
    """A text of at most this length, cut after a word if possible."""
    if maxlen and len(s) >= maxlen:
        return s[:maxlen].rsplit(" ", 1)[0] + suffix
    return s


def pluralize(n: float, text: str, suffix: str = "s") -> str:
    """The word for so many."""
    return text + suffix if n != 1 else text


def pretty(value: Any, width: int = 80, nl_width: int = 80, sep: str = "\n", **kw: Any) -> str:
    """A value for people to read."""
    if isinstance(value, dict):
        return f"{{{sep} {pformat(value, 4, nl_width)[1:]}"
    if isinstance(value, tuple):
        return f"{sep}{' ' * 4}{pformat(value, width=nl_width, **kw)}"
    return pformat(value, width=width, **kw)


def match_case(s: str, other: str) -> str:
    """The text in capitals, if the other is."""
    return s.upper() if other.isupper() else s.lower()


_LETTER = re.compile(r"%(\w|%)")


def simple_format(s: Any, keys: Mapping[str, Any], pattern: re.Pattern[str] = _LETTER, expand: str = r"\1") -> Any:
    """The text with `%n` and the like replaced: by a value, or by what a function gives.

    Raises:
        ValueError: One is unknown.
    """
    if not s:
        return s
    values = {"%": "%", **keys}

    def replace(match: re.Match[str]) -> str:
        key = match.expand(expand)
        if key not in values:
            raise ValueError(f"unknown format %{key} in {s!r}; there are: {', '.join(sorted(values))}")
        found: str | Callable[[], str] = values[key]
        return found() if callable(found) else str(found)

    return pattern.sub(replace, s)


def remove_repeating_from_task(task_name: str, s: str) -> str:
    """The text with the module of a task written out once."""
    module = str(task_name).rpartition(".")[0] + "."
    return remove_repeating(module, s)


def remove_repeating(substr: str, s: str) -> str:
    """The text with a part of it kept where it comes first, and removed from then on."""
    begin, found, rest = s.partition(substr)
    return begin + found + rest.replace(substr, "") if found else s
