"""The fields of a crontab."""

from __future__ import annotations

import re

from celeriac.utils.time import weekday, yearmonth


class ParseException(Exception):
    """A crontab field cannot be read."""


class crontab_parser:
    """Reads a field of a crontab: `*`, `5`, `1-5`, `*/15`, `8-17/2`, `mon-fri`, and lists of these with commas.

    Args:
        max_: How many numbers there are.
        min_: The first of them.

    Example:
        >>> sorted(crontab_parser(24).parse("0,8-17/3"))
        [0, 8, 11, 14, 17]
    """

    ParseException = ParseException

    # What follows a part that fits is not looked at, as in Celery.
    _RANGE_STEPS = re.compile(r"(\w+?)-(\w+)/(\w+)?")
    _RANGE = re.compile(r"(\w+?)-(\w+)")
    _STAR_STEPS = re.compile(r"\*/(\w+)?")

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_

    def parse(self, spec: str) -> set[int]:
        """The numbers that a text stands for.

        Raises:
            ParseException: The text has not the form.
            ValueError: A number or name is out of range.
        """
        numbers: set[int] = set()
        for part in spec.split(","):
            if not part:
                raise ParseException("empty part")
            numbers.update(self._part(part))
        return numbers

    def _part(self, part: str) -> list[int]:
        if found := self._RANGE_STEPS.match(part):
            return self._every(self._range(found[1], found[2]), found[3])
        if found := self._RANGE.match(part):
            return self._range(found[1], found[2])
        everything = list(range(self.min_, self.min_ + self.max_))
        if found := self._STAR_STEPS.match(part):
            return self._every(everything, found[1])
        return everything if part == "*" else [self._number(part)]

    def _every(self, numbers: list[int], steps: str | None) -> list[int]:
        if not steps:
            raise ParseException("empty filter")
        return numbers[:: int(steps)]

    def _range(self, first: str, last: str) -> list[int]:
        start, stop = self._number(first), self._number(last)
        if start <= stop:
            return list(range(start, stop + 1))
        return [*range(start, self.min_ + self.max_), *range(self.min_, stop + 1)]

    def _number(self, text: str) -> int:
        if text.startswith("-"):
            raise ParseException("negative numbers not supported")
        number = _number_or_name(text)
        last = self.min_ + self.max_ - 1
        if number > last:
            raise ValueError(f"Invalid end range: {number} > {last}.")
        if number < self.min_:
            raise ValueError(f"Invalid beginning range: {number} < {self.min_}.")
        return number


def _number_or_name(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    for by_name in (yearmonth, weekday):
        try:
            return by_name(text)
        except KeyError:
            continue
    raise ValueError(f"Invalid weekday literal {text!r}.")
