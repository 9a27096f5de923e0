"""Graphs of what depends on what: their order, and their form in the DOT language."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import IO, Any, Generic, TypeVar

__all__ = ["CycleError", "DependencyGraph", "GraphFormatter", "quoted"]

T = TypeVar("T", bound=Hashable)


class CycleError(Exception):
    """Things depend on each other in a circle."""


class DependencyGraph(Generic[T]):
    """Objects, and for each of them those that it points to.

    Args:
        it: Pairs of (object, those it points to).
        formatter: How it is written in the DOT language.
    """

    def __init__(
        self, it: Iterable[tuple[T, Iterable[T]]] | None = None, formatter: GraphFormatter | None = None
    ) -> None:
        self.formatter = formatter if formatter is not None else GraphFormatter()
        self.adjacent: dict[T, list[T]] = {}
        if it is not None:
            self.update(it)

    def add_arc(self, obj: T) -> None:
        """Adds an object."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, A: T, B: T) -> None:  # noqa: N803 -- the names that Celery gives them
        """`A` points to `B`.

        Raises:
            KeyError: `A` is not in the graph.
        """
        self.adjacent[A].append(B)

    def connect(self, graph: DependencyGraph[T]) -> None:
        """Takes over the objects of another graph, with what they point to."""
        self.adjacent.update(graph.adjacent)

    def update(self, it: Iterable[tuple[T, Iterable[T]]]) -> None:
        """Adds pairs of (object, those it points to)."""
        pairs = [(obj, list(targets)) for obj, targets in it]
        for obj, _ in pairs:
            self.add_arc(obj)
        for obj, targets in pairs:
            self.adjacent[obj].extend(targets)

    def topsort(self) -> list[T]:
        """The objects, each after those that it points to. Of a circle only one is given."""
        return [component[0] for component in self._components()]

    def valency_of(self, obj: T) -> int:
        """How many edges lead away from it and from those that it leads to.

        Raises:
            CycleError: Following them never ends.
        """
        total = 0
        stack: list[tuple[T, frozenset[T]]] = [(obj, frozenset())]
        while stack:
            node, above = stack.pop()
            if node in above:
                raise CycleError(f"{node!r} points to itself, directly or through others")
            targets = self.adjacent.get(node, ())
            total += len(targets)
            stack.extend((target, above | {node}) for target in targets)
        return total

    def edges(self) -> Iterator[T]:
        """The objects that point to others."""
        return (obj for obj, targets in self.adjacent.items() if targets)

    def _components(self) -> list[list[T]]:
        """Circles (nearly always single objects), each after those that it leads to (Tarjan's algorithm)."""
        number: dict[T, int] = {}
        lowest: dict[T, int] = {}
        open_nodes: dict[T, None] = {}
        components: list[list[T]] = []
        for start in self.adjacent:
            if start in number:
                continue
            number[start] = lowest[start] = len(number)
            open_nodes[start] = None
            path = [(start, iter(self.adjacent[start]))]
            while path:
                node, targets = path[-1]
                for target in targets:
                    if target not in number:
                        number[target] = lowest[target] = len(number)
                        open_nodes[target] = None
                        path.append((target, iter(self.adjacent.get(target, ()))))
                        break
                    if target in open_nodes:
                        lowest[node] = min(lowest[node], number[target])
                else:
                    path.pop()
                    if path:
                        lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[node])
                    if lowest[node] == number[node]:
                        component: list[T] = []
                        while not component or component[-1] != node:
                            component.append(open_nodes.popitem()[0])
                        components.append(component[::-1])
        return components

    def to_dot(self, fh: IO[str], formatter: GraphFormatter | None = None) -> None:
        """Writes it to a text file in the DOT language."""
        draw = formatter if formatter is not None else self.formatter
        seen = set()

        def once(obj: Any, line: str) -> None:
            if draw.label(obj) not in seen:
                seen.add(draw.label(obj))
                fh.write(line + "\n")

        fh.write(draw.head() + "\n")
        for obj, targets in self.adjacent.items():
            once(obj, draw.node(obj) if targets else draw.terminal_node(obj))
            for target in targets:
                fh.write(draw.edge(obj, target) + "\n")
        fh.write(draw.tail() + "\n")

    def format(self, obj: T) -> Any:
        """What the formatter calls an object."""
        return self.formatter.label(obj)

    def items(self) -> Any:
        """Pairs of (object, those it points to)."""
        return self.adjacent.items()

    iteritems = items

    def repr_node(self, obj: T, level: int = 1, fmt: str = "{0}({1})") -> str:
        """A tree of text below an object."""
        lines = [fmt.format(obj, self.valency_of(obj))]
        for target in self.adjacent.get(obj, ()):
            below = self.repr_node(target, level + 1, fmt).split("\n")
            lines += ["     " * level + below[0], *below[1:]]
        return "\n".join(lines)

    def __iter__(self) -> Iterator[T]:
        return iter(self.adjacent)

    def __getitem__(self, node: T) -> list[T]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, obj: object) -> bool:
        return obj in self.adjacent

    def __repr__(self) -> str:
        return "\n".join(self.repr_node(node) for node in self)


class GraphFormatter:
    """Writes a graph's parts in the DOT language. Subclasses change the schemes or `label`.

    Args:
        root: What is named as the graph's root.
        type: `digraph`, or `graph` for edges without direction.
        id: The graph's name.
        indent: How many steps the lines are indented.
        inw: One step.
        scheme: Attributes of all parts.
    """

    scheme: Mapping[str, Any] = {"shape": "box", "arrowhead": "vee", "style": "filled", "fontname": "Helvetica"}
    edge_scheme: Mapping[str, Any] = {"color": "gray40", "arrowcolor": "black", "arrowsize": 0.7}
    node_scheme: Mapping[str, Any] = {"fillcolor": "palegreen3", "color": "palegreen4"}
    term_scheme: Mapping[str, Any] = {"fillcolor": "palegreen1", "color": "palegreen2"}
    graph_scheme: Mapping[str, Any] = {"bgcolor": "white"}
    _arrows: Mapping[str, str] = {"digraph": "->", "graph": "--"}

    def __init__(
        self,
        root: Any = None,
        type: str | None = None,
        id: str | None = None,
        indent: int = 0,
        inw: str = " " * 4,
        **scheme: Any,
    ) -> None:
        self.id = id or "dependencies"
        self.root = root
        self.type = type or "digraph"
        self.direction = self._arrows[self.type]
        self.IN = inw * indent
        self.INp = self.IN + inw
        self.scheme = {**self.scheme, **scheme}
        self.graph_scheme = {**self.graph_scheme, "root": self.label(root)}

    def label(self, obj: Any) -> Any:
        """What an object is called."""
        return obj

    def attrs(self, d: Mapping[str, Any] | None, scheme: Mapping[str, Any] | None = None) -> str:
        """Attributes as they are written; `d` goes before `scheme`, and that before the scheme of all parts."""
        merged = {**self.scheme, **(scheme or {}), **(d or {})}
        return ", ".join(f"{name}={quoted(value)}" for name, value in merged.items())

    def head(self, **attrs: Any) -> str:
        """The first lines."""
        return f"{self.IN}{self.type} {self.id} {{\n{self.INp}graph [{self.attrs(attrs, self.graph_scheme)}]"

    def tail(self) -> str:
        """The last line."""
        return f"{self.IN}}}"

    def node(self, obj: Any, **attrs: Any) -> str:
        """An object that points to others."""
        return self.draw_node(obj, self.node_scheme, attrs)

    def terminal_node(self, obj: Any, **attrs: Any) -> str:
        """An object that points to none."""
        return self.draw_node(obj, self.term_scheme, attrs)

    def edge(self, a: Any, b: Any, **attrs: Any) -> str:
        """That `a` points to `b`."""
        return self.draw_edge(a, b, self.edge_scheme, attrs)

    def draw_node(
        self, obj: Any, scheme: Mapping[str, Any] | None = None, attrs: Mapping[str, Any] | None = None
    ) -> str:
        """An object with these attributes."""
        return f"{self.INp}{quoted(self.label(obj))} [{self.attrs(attrs, scheme)}]"

    def draw_edge(
        self, a: Any, b: Any, scheme: Mapping[str, Any] | None = None, attrs: Mapping[str, Any] | None = None
    ) -> str:
        """An edge with these attributes."""
        ends = f"{quoted(self.label(a))} {self.direction} {quoted(self.label(b))}"
        return f"{self.INp}{ends} [{self.attrs(attrs, scheme if scheme is not None else self.edge_scheme)}]"


def quoted(value: Any) -> str:
    """A text of the DOT language; lines of it stay lines."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'
