"""`examples/patterns/tenants.py`."""

from __future__ import annotations

from .conftest import Pattern


def test_a_tenant_with_little_work_is_not_held_back(pattern: Pattern) -> None:
    output = pattern.example("tenants", "-c", "4")

    assert output.splitlines() == [
        "small was served before big's last page: True",
        "pages of big: 200 small was overtaken by all: False",
        "at most 20 mails in any second: True",
        "by name: True",
    ]
