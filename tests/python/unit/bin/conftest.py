"""A project in a folder of its own, with an app in it, and what runs commands on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from click.testing import CliRunner, Result

from celeriac.bin import celeriac

APP = """
    from celeriac import Celery
    app = Celery("shop", broker="sqlite:///shop.db", backend="sqlite:///shop.db")
    @app.task(name="shop.add", time_limit=60)
    def add(x, y):
        return x + y
    @app.task(name="shop.mail", time_limit=60)
    def mail():
        return None
    """


class Shop:
    """The project: `run` calls a command, `app` is its app."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *args: str, **more: Any) -> Result:
        return CliRunner().invoke(celeriac, ["-A", "shop_app", *args], **more)

    @property
    def app(self) -> Any:
        import shop_app

        return shop_app.app

    def counts(self, name: str = "celery") -> dict[str, int]:
        found = next((queue for queue in self.app.client.queues() if queue["name"] == name), {})
        return {key: value for key, value in found.items() if key != "name" and value}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    (tmp_path / "shop_app.py").write_text(dedent(APP))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("CELERIAC_BROKER_URL", "CELERIAC_RESULT_BACKEND", "CELERY_BROKER_URL", "NO_COLOR", "APP"):
        # Set first, so that what a command sets is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield Shop(tmp_path)
    module = sys.modules.pop("shop_app", None)
    if module is not None:
        module.app.close()
