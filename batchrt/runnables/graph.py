"""Graphs of chains: nodes and edges, drawn as text or as a Mermaid diagram."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from batchrt.runnables.base import Runnable
from batchrt.runnables.binding import RunnableBinding
from batchrt.runnables.branch import RunnableBranch
from batchrt.runnables.configurable import RunnableConfigurableAlternatives, RunnableConfigurableFields
from batchrt.runnables.each import RunnableEach
from batchrt.runnables.fallbacks import RunnableWithFallbacks
from batchrt.runnables.listeners import RunnableWithListeners
from batchrt.runnables.parallel import RunnableParallel
from batchrt.runnables.passthrough import RunnableAssign, RunnablePassthrough
from batchrt.runnables.retry import RunnableRetry
from batchrt.runnables.router import RouterRunnable
from batchrt.runnables.sequence import RunnableSequence
from batchrt.runnables.text_blocks import TextBlock, box, side_by_side, stacked

__all__ = ["Edge", "Graph", "Node", "graph_of"]

_WRAPPERS: Final = (
    *(RunnableBinding, RunnableWithListeners, RunnableRetry, RunnableEach, RunnableConfigurableFields),
)
"""Runnables that are drawn as the one inside."""


class Node(NamedTuple):
    """A node of a graph.

    Attributes:
        id: its place in the graph.
        name: the runnable's.
        data: the runnable; `None` for the input and output of the whole and of parallel branches.
    """

    id: int
    name: str
    data: Runnable[Any, Any] | None = None


class Edge(NamedTuple):
    """An edge of a graph.

    Attributes:
        source: the id of the node that it leaves.
        target: the id of the node that it enters.
        data: the name of the branch that begins here, if one does.
        conditional: whether only one of the branches is taken.
    """

    source: int
    target: int
    data: str | None = None
    conditional: bool = False


@dataclass(frozen=True)
class _Fork:
    """Branches between two nodes."""

    begin: str
    end: str
    branches: list[tuple[str | None, _Shape]]
    conditional: bool


@dataclass(frozen=True)
class _Single:
    name: str
    data: Runnable[Any, Any] | None = None


_Shape: TypeAlias = "_Single | _Fork | list[_Shape]"
"""A node, branches, or shapes one after another: chains consist of nothing else."""


@dataclass
class Graph:
    """The steps of a chain and their order; see `Runnable.get_graph`.

    Attributes:
        nodes: from the input to the output.
        edges: in the order of their sources.
    """

    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    _shape: _Shape = field(default_factory=list, repr=False)

    def first_node(self) -> Node:
        """Return the node of the input."""
        return self.nodes[0]

    def last_node(self) -> Node:
        """Return the node of the output."""
        return self.nodes[-1]

    def draw_ascii(self) -> str:
        """Return the graph as text, from top to bottom."""
        return "\n".join(line.rstrip() for line in _drawn(self._shape).lines)

    def print_ascii(self) -> None:
        """Print the graph as text."""
        print(self.draw_ascii())  # noqa: T201

    def draw_mermaid(self) -> str:
        """Return the graph as the source of a Mermaid diagram, which GitHub and notebooks show."""
        lines = ["graph TD;"]
        for node in self.nodes:
            shape = "(%s)" if node.data is not None else "([%s])"
            lines.append(f"    n{node.id}" + shape % _quoted(node.name))
        for edge in self.edges:
            arrow = "-.->" if edge.conditional else "-->"
            label = "" if edge.data is None else f"|{_quoted(edge.data)}|"
            lines.append(f"    n{edge.source} {arrow}{label} n{edge.target}")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """Return nodes and edges as JSON values, without the runnables."""
        return {
            "nodes": [{"id": node.id, "name": node.name} for node in self.nodes],
            "edges": [edge._asdict() for edge in self.edges],
        }

    def _add(self, shape: _Shape, before: Iterable[Edge]) -> list[Edge]:
        """Add `shape` behind the edges `before`, whose targets are open; return those that leave it."""
        if isinstance(shape, list):
            edges = list(before)
            for part in shape:
                edges = self._add(part, edges)
            return edges
        if isinstance(shape, _Single):
            return [Edge(self._put(shape.name, shape.data, before), -1)]
        begin = self._put(shape.begin, None, before)
        ends: list[Edge] = []
        for name, branch in shape.branches:
            ends += self._add(branch, [Edge(begin, -1, name, shape.conditional)])
        return [Edge(self._put(shape.end, None, ends), -1)]

    def _put(self, name: str, data: Runnable[Any, Any] | None, before: Iterable[Edge]) -> int:
        node = Node(len(self.nodes), name, data)
        self.nodes.append(node)
        self.edges += [edge._replace(target=node.id) for edge in before]
        return node.id


def graph_of(runnable: Runnable[Any, Any]) -> Graph:
    """Return the graph of a chain; see `Runnable.get_graph`."""
    shape = [_Single("Input"), _shape_of(runnable), _Single("Output")]
    graph = Graph(_shape=shape)
    graph._add(shape, [])
    graph.edges.sort(key=lambda edge: (edge.source, edge.target))
    return graph


def _shape_of(runnable: Runnable[Any, Any]) -> _Shape:
    match runnable:
        case RunnableSequence():
            shape: _Shape = [_shape_of(step) for step in runnable.steps]
        case RunnableParallel():
            shape = _fork_of(f"Parallel<{','.join(runnable.steps__)}>", runnable.steps__.items())
        case RunnableAssign():
            fields = runnable.mapper.steps__
            branches = [*fields.items(), (None, RunnablePassthrough[Any]())]
            shape = _fork_of(f"Assign<{','.join(fields)}>", branches)
        case RunnableBranch():
            pairs = [(repr(when), then) for when, then in runnable.branches]
            shape = _fork_of("Branch", [*pairs, ("default", runnable.default)], conditional=True)
        case RouterRunnable():
            shape = _fork_of("Router", runnable.runnables.items(), conditional=True)
        case RunnableConfigurableAlternatives():
            name = f"Alternatives<{runnable.which.id}>"
            options = {runnable.default_key: runnable.default, **runnable.alternatives}
            shape = _fork_of(name, options.items(), conditional=True)
        case RunnableWithFallbacks():
            others = [(f"fallback {number}", each) for number, each in enumerate(runnable.fallbacks, 1)]
            shape = _fork_of("Fallbacks", [("first", runnable.runnable), *others], conditional=True)
        case _ if isinstance(runnable, _WRAPPERS):
            inner = (
                runnable.default if isinstance(runnable, RunnableConfigurableFields) else _inside(runnable)
            )
            shape = _shape_of(inner)
        case _:
            shape = _Single(runnable.get_name(), runnable)
    return shape


def _inside(runnable: Any) -> Runnable[Any, Any]:
    inner: Runnable[Any, Any] = (
        runnable.default if isinstance(runnable, RunnableConfigurableFields) else runnable.bound
    )
    return inner


def _fork_of(
    name: str, branches: Iterable[tuple[str | None, Runnable[Any, Any]]], *, conditional: bool = False
) -> _Fork:
    shapes = [(key, _shape_of(branch)) for key, branch in branches]
    return _Fork(f"{name}Input", f"{name}Output", shapes, conditional)


def _drawn(shape: _Shape) -> TextBlock:
    if isinstance(shape, _Single):
        return box(shape.name)
    if isinstance(shape, list):
        return stacked([_drawn(part) for part in shape])
    branches = [_drawn(branch) for _, branch in shape.branches]
    between = [side_by_side(branches, broken=shape.conditional)] if branches else []
    return stacked([box(shape.begin), *between, box(shape.end)])


def _quoted(text: str) -> str:
    # Mermaid's own way to write characters that mean something in its syntax.
    escaped = text.replace("&", "&amp;").replace('"', "#quot;").replace("<", "&lt;").replace(">", "&gt;")
    return f'"{escaped}"'
