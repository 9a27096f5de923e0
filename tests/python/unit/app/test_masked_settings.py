"""What is shown of settings, by `report`, `inspect conf` and `inspect stats` alike."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.utils.secrets import masked

STARS = "********"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("redis_password", "geheim", STARS),
        ("api_token", ["geheim", "geheim"], STARS),
        ("accesskey", "geheim", STARS),
        ("security_key_password", b"geheim", STARS),
        ("redis_password", None, None),
        ("broker_url", "redis://u:geheim@h/0", "redis://u:**@h/0"),
        ("broker_url", ["redis://u:geheim@h/0"], ["redis://u:**@h/0"]),
        ("broker_transport_options", {"sentinel_kwargs": {"passwd": "geheim"}}, {"sentinel_kwargs": {"passwd": STARS}}),
        ("task_default_routing_key", "celery", "celery"),
        ("cassandra_keyspace", "results", "results"),
        ("task_time_limit", 3, 3),
    ],
)
def test_secrets_are_masked_wherever_they_are(name: str, value: Any, shown: Any) -> None:
    assert masked(name, value) == shown
    assert masked(name.upper(), value) == shown
