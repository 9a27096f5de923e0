"""What the machine is doing."""

from __future__ import annotations

import os
from math import ceil

__all__ = ["load_average"]


def load_average() -> tuple[float, ...]:
    """The load of the last one, five and fifteen minutes, rounded up to hundredths."""
    return tuple(ceil(load * 100) / 100 for load in os.getloadavg())
