"""Servers for every test; figures that tests measure are printed at the end, whichever process measured them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .servers.fixtures import (
    own_rabbitmq,
    own_redis,
    postgres_url,
    proxy,
    rabbitmq_url,
    redis_url,
    server_folder,
    shared,
)

__all__ = ["own_rabbitmq", "own_redis", "postgres_url", "proxy", "rabbitmq_url", "redis_url", "server_folder", "shared"]


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Keeps a line for the summary."""
    return lambda line: record_property("figure", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    lines = [str(line) for report in reports for name, line in report.user_properties if name == "figure"]
    if lines:
        terminalreporter.section("figures")
    for line in lines:
        terminalreporter.write_line(line)
