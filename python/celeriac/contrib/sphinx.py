"""An extension of Sphinx: `automodule` finds tasks, `.. autotask::` documents one, `:task:` refers to it.

    # conf.py
    extensions = ["celeriac.contrib.sphinx"]
    celery_task_prefix = "(task)"  # what stands in front of a task; this is the default

Sphinx 9 and later need `autodoc_use_legacy_class_based = True` besides, which is set when it is missing.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from docutils import nodes
from sphinx.domains.python import PyFunction, PyXRefRole
from sphinx.ext.autodoc import FunctionDocumenter

from celeriac.app.task import BaseTask

__all__ = ["TaskDirective", "TaskDocumenter", "autodoc_skip_member_handler", "setup"]


class TaskDocumenter(FunctionDocumenter):  # type: ignore[misc, no-any-unimported]
    """Documents a task as the function that it was made of."""

    objtype = "task"
    member_order = 11

    @classmethod
    def can_document_member(cls, member: Any, membername: str, isattr: bool, parent: Any) -> bool:
        """Whether something is a task."""
        return _is_task(member)

    def format_args(self, **kwargs: Any) -> str:
        """The parameters, without the task itself."""
        function = getattr(self.object, "__wrapped__", None)
        if function is None:
            return ""
        found = signature(function)
        parameters = list(found.parameters.values())
        if parameters and parameters[0].name in {"self", "cls"}:
            found = found.replace(parameters=parameters[1:])
        return str(found)

    def document_members(self, all_members: bool = False) -> None:
        """A task has none that matter here."""

    def check_module(self) -> bool:
        """Whether the function is of the module that is documented; the task itself may be a stand-in."""
        function = getattr(self.object, "__wrapped__", None)
        return getattr(function, "__module__", None) == self.modname or bool(super().check_module())


class TaskDirective(PyFunction):  # type: ignore[misc, no-any-unimported]
    """`.. task::`."""

    def get_signature_prefix(self, sig: str) -> list[Any]:
        """What stands in front of the name."""
        return [nodes.Text(self.env.config.celery_task_prefix + " ")]


def autodoc_skip_member_handler(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Keeps tasks, whose docstring is also their class's, from being skipped for that."""
    return False if skip and _is_task(obj) else None


def setup(app: Any) -> dict[str, Any]:
    """What Sphinx calls."""
    import sphinx

    app.setup_extension("sphinx.ext.autodoc")
    if sphinx.version_info >= (9, 0):
        app.config.autodoc_use_legacy_class_based = True
    app.add_autodocumenter(TaskDocumenter)
    app.add_directive_to_domain("py", "task", TaskDirective)
    app.add_role_to_domain("py", "task", PyXRefRole(fix_parens=True))
    app.add_config_value("celery_task_prefix", "(task)", "env")
    app.connect("autodoc-skip-member", autodoc_skip_member_handler)
    return {"parallel_read_safe": True}


def _is_task(obj: Any) -> bool:
    return isinstance(obj, BaseTask) and getattr(obj, "__wrapped__", None) is not None
