"""The extension of Sphinx, with as much of Sphinx as it asks for."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from celeriac import Celery


class Documenter:
    object: Any = None
    modname = ""

    def check_module(self) -> bool:
        return False


class Sphinx:
    """Notes what an extension registers."""

    def __init__(self) -> None:
        self.said: dict[str, tuple[Any, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.said.__setitem__(name, args)


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, members in {
        "docutils": {"nodes": ModuleType("docutils.nodes")},
        "sphinx": {"version_info": (8, 2, 0)},
        "sphinx.domains": {},
        "sphinx.domains.python": {"PyFunction": object, "PyXRefRole": lambda **_: "role"},
        "sphinx.ext": {},
        "sphinx.ext.autodoc": {"FunctionDocumenter": Documenter},
    }.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "celeriac.contrib.sphinx", raising=False)
    yield import_module("celeriac.contrib.sphinx")
    sys.modules.pop("celeriac.contrib.sphinx", None)


def test_a_task_is_documented_as_its_function(extension: Any, app: Celery) -> None:
    @app.task(bind=True)
    def add(self: Any, x: int, y: int = 2) -> int:
        return x + y

    documenter = extension.TaskDocumenter()
    documenter.object, documenter.modname = add, __name__

    assert extension.TaskDocumenter.can_document_member(add, "add", False, None)
    assert not extension.TaskDocumenter.can_document_member(len, "len", False, None)
    assert documenter.format_args() == "(x: 'int', y: 'int' = 2) -> 'int'"
    assert documenter.check_module()
    assert extension.autodoc_skip_member_handler(None, "module", "add", add, True, None) is False
    assert extension.autodoc_skip_member_handler(None, "module", "len", len, True, None) is None


def test_what_is_registered(extension: Any) -> None:
    sphinx = Sphinx()

    assert extension.setup(sphinx) == {"parallel_read_safe": True}

    assert sphinx.said["add_autodocumenter"] == (extension.TaskDocumenter,)
    assert sphinx.said["add_directive_to_domain"] == ("py", "task", extension.TaskDirective)
    assert sphinx.said["add_config_value"] == ("celery_task_prefix", "(task)", "env")
