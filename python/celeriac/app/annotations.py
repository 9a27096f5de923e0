"""`task_annotations`: attributes of tasks, from settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from celeriac.utils.imports import instantiate

__all__ = ["MapAnnotation", "prepare", "resolve_all"]


class MapAnnotation(dict[str, Any]):
    """Attributes by the names of tasks; `*` is any task."""

    def annotate_any(self) -> dict[str, Any] | None:
        """Attributes of any task."""
        found = self.get("*")
        return None if found is None else dict(found)

    def annotate(self, task: Any) -> dict[str, Any] | None:
        """Attributes of this task."""
        found = self.get(task.name)
        return None if found is None else dict(found)


def prepare(annotations: Any) -> tuple[Any, ...]:
    """Annotations as objects: of mappings, objects, or paths of classes."""
    if annotations is None:
        return ()
    given: Iterable[Any] = annotations if isinstance(annotations, (list, tuple)) else (annotations,)
    return tuple(
        MapAnnotation(one) if isinstance(one, Mapping) else instantiate(one) if isinstance(one, str) else one
        for one in given
    )


def resolve_all(anno: Iterable[Any], task: Any) -> Iterable[dict[str, Any]]:
    """What the annotations say of a task."""
    for annotation in anno:
        for found in (annotation.annotate_any(), annotation.annotate(task)):
            if found:
                yield found
