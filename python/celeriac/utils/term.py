"""Colour for terminals."""

from __future__ import annotations

from typing import Any

__all__ = ["colored"]

_NAMES = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_STYLES = {"bold": "1", "underline": "4", "blink": "5", "reverse": "7", "bright": "1", "reset": "0"}
_CODES = {**{name: f"1;{30 + place}" for place, name in enumerate(_NAMES)}, **_STYLES}


class colored:
    """Text in colour: `colored().red("stop ", colored().bold("now"))`.

    Args:
        *s: The parts.
        enabled: Off, it is plain text.
        op: The escape sequence in front.
    """

    def __init__(self, *s: Any, enabled: bool = True, op: str = "", **kwargs: Any) -> None:
        self.s = s
        self.enabled = enabled
        self.op = op

    def node(self, s: tuple[Any, ...], op: str) -> colored:
        """A part of this one, with a sequence of its own."""
        return type(self)(*s, enabled=self.enabled, op=op)

    def __getattr__(self, name: str) -> Any:
        code = _CODES.get(name.removeprefix("i")) if name not in _CODES else _CODES[name]
        if code is None:
            raise AttributeError(name)
        return lambda *s: self.node(s, f"\033[{code}m")

    def no_color(self) -> str:
        """The text without colour."""
        return "".join(part.no_color() if isinstance(part, colored) else str(part) for part in self.s)

    def embed(self) -> str:
        """The text; what comes after it is in colour too."""
        parts = (part.embed() if isinstance(part, colored) and self.enabled else str(part) for part in self.s)
        return self.op + "".join(parts)

    def __str__(self) -> str:
        return f"{self.embed()}\033[0m" if self.enabled else self.no_color()

    def __add__(self, other: Any) -> str:
        return str(self) + str(other)

    def __repr__(self) -> str:
        return repr(self.no_color())
