"""Pictures of signatures in their JSON form, which is the same whoever made it."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.canvas.picture import picture_of
from celeriac.utils.picture import Picture


def task(name: str, *args: Any, kwargs: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return {
        "task": name,
        "args": list(args),
        "kwargs": kwargs or {},
        "options": options,
        "subtask_type": None,
        "immutable": False,
    }


def canvas(kind: str, **kwargs: Any) -> dict[str, Any]:
    return task(f"celery.{kind}", kwargs=kwargs) | {"subtask_type": kind}


def chain(*tasks: Any) -> dict[str, Any]:
    return canvas("chain", tasks=list(tasks))


def group(*tasks: Any) -> dict[str, Any]:
    return canvas("group", tasks=list(tasks))


def chord(header: Any, body: Any) -> dict[str, Any]:
    return canvas("chord", header=header, body=body, kwargs={})


def drawn(sig: dict[str, Any], **options: Any) -> list[str]:
    """Arrows by the first lines of their boxes; a dot is `.`."""
    picture: Picture = picture_of(sig, **options)
    name = {key: (picture.lines(key) or (".",))[0] for key in picture.boxes}
    return [f"{name[start]} > {name[end]}" for start, end in picture.arrows]


def test_a_chain_is_a_line() -> None:
    assert drawn(chain(task("a"), chain(task("b"), task("c")))) == ["b > c", "a > b"]


def test_a_group_stands_side_by_side_and_a_chord_meets_in_its_body() -> None:
    parts = group(task("a"), task("b"))

    assert drawn(parts) == []
    assert drawn(chord(parts, task("sum"))) == ["a > sum", "b > sum"]
    assert drawn(chord([task("a"), task("b")], task("sum"))) == ["a > sum", "b > sum"]
    assert drawn(chain(task("first"), parts, task("sum"))) == ["first > a", "first > b", "a > sum", "b > sum"]


def test_many_to_many_meet_in_a_dot() -> None:
    arrows = drawn(chain(group(task("a"), task("b")), group(task("c"), task("d"))))

    assert arrows == ["a > .", "b > .", ". > c", ". > d"]


def test_empty_groups_are_passed_by() -> None:
    assert drawn(chain(task("a"), group(), task("b"))) == ["a > b"]
    assert drawn(chord([], task("b"))) == []
    assert picture_of(group()).boxes == []


def test_callbacks_and_error_callbacks_hang_on_what_they_follow() -> None:
    sig = task("a", link=[task("then")], link_error=task("alas"))

    picture = picture_of(sig)

    assert drawn(sig) == ["a > then", "a > alas"]
    assert ">link<" in picture.to_svg()
    assert ">error<" in picture.to_svg()


def test_boxes_tell_arguments_and_what_a_map_runs_over() -> None:
    picture = picture_of(
        chain(
            task("add", 1, "x" * 80, kwargs={"key": [1]}),
            task("celery.starmap", kwargs={"task": task("add"), "it": [[1, 2], [3, 4]]}),
            task("celery.chunks", kwargs={"task": task("add"), "it": [[1, 2], [3, 4]], "n": 10}),
        )
    )

    lines = [picture.lines(key) for key in picture.boxes]
    assert lines[0][0] == "add"
    assert lines[0][1].startswith("(1, 'xxx")
    assert len(lines[0][1]) == 40
    assert lines[1:] == [("add", "starmap over 2"), ("add", "chunks of 10 over 2")]


def test_of_a_large_group_some_are_drawn() -> None:
    big = chord([task(f"t{n}") for n in range(1_000)], task("sum"))

    arrows = drawn(big, most=3)

    assert arrows == ["t0 > sum", "t1 > sum", "… 998 more > sum"]
    assert len(drawn(big, most=0)) == 1_000


def test_what_is_no_signature_is_refused() -> None:
    for wrong in ({}, [1], None, "add"):
        with pytest.raises(TypeError, match="a picture is made of a signature"):
            picture_of(wrong)  # type: ignore[arg-type]
