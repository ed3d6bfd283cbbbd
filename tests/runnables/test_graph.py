"""Graphs of chains, as nodes and edges, as text and as Mermaid's source."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from batchrt import (
    ConfigurableField,
    JsonOutputParser,
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    StrOutputParser,
)
from tests.runnables.helpers import add_one, add_two

DRAWN = """\
         +-------+
         | Input |
         +-------+
             |
        +---------+
        | add_one |
        +---------+
             |
 +----------------------+
 | Parallel<a,bee>Input |
 +----------------------+
             |
     +----------------+
     |                |
+---------+  +-----------------+
| add_two |  | StrOutputParser |
+---------+  +-----------------+
     |                |
     +----------------+
             |
 +-----------------------+
 | Parallel<a,bee>Output |
 +-----------------------+
             |
        +--------+
        | Output |
        +--------+"""


def names_of(runnable: Runnable[Any, Any]) -> list[str]:
    return [node.name for node in runnable.get_graph().nodes]


def edges_of(runnable: Runnable[Any, Any]) -> list[Any]:
    graph = runnable.get_graph()
    name = {node.id: node.name for node in graph.nodes}
    return [(name[e.source], name[e.target], e.data, e.conditional) for e in graph.edges]


CHAIN: Runnable[Any, Any] = RunnableLambda(add_one) | {"a": add_two, "bee": StrOutputParser()}


def test_graph_has_the_steps_from_input_to_output() -> None:
    """Branches lie between a node for their input and one for their output."""
    assert edges_of(CHAIN) == [
        ("Input", "add_one", None, False),
        ("add_one", "Parallel<a,bee>Input", None, False),
        ("Parallel<a,bee>Input", "add_two", "a", False),
        ("Parallel<a,bee>Input", "StrOutputParser", "bee", False),
        ("add_two", "Parallel<a,bee>Output", None, False),
        ("StrOutputParser", "Parallel<a,bee>Output", None, False),
        ("Parallel<a,bee>Output", "Output", None, False),
    ]
    graph = CHAIN.get_graph()
    assert (graph.first_node().name, graph.last_node().name) == ("Input", "Output")
    data = {node.name: node.data for node in graph.nodes}
    assert data["Input"] is None
    assert isinstance(data["add_two"], RunnableLambda)


def test_graph_is_drawn_as_text() -> None:
    """Joined from top to bottom."""
    assert CHAIN.get_graph().draw_ascii() == DRAWN


def test_graph_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The same text, with a line break."""
    CHAIN.get_graph().print_ascii()
    assert capsys.readouterr().out == CHAIN.get_graph().draw_ascii() + "\n"


def test_graph_is_drawn_as_mermaid() -> None:
    """Names are quoted; one of several branches has a dotted line."""
    branch: Runnable[Any, Any] = RunnableBranch((RunnableLambda(add_one, name='a"<b>'), add_one), add_two)
    assert branch.get_graph().draw_mermaid() == textwrap.dedent(
        """\
        graph TD;
            n0(["Input"])
            n1(["BranchInput"])
            n2("add_one")
            n3("add_two")
            n4(["BranchOutput"])
            n5(["Output"])
            n0 --> n1
            n1 -.->|"a#quot;&lt;b&gt;"| n2
            n1 -.->|"default"| n3
            n2 --> n4
            n3 --> n4
            n4 --> n5
        """
    )


@pytest.mark.parametrize(
    ("runnable", "names"),
    [
        (RunnableLambda(add_one).bind(extra=1).with_retry().map(), ["add_one"]),
        (RunnableLambda(add_one).with_listeners(on_end=print), ["add_one"]),
        (
            RunnableLambda(add_one).configurable_fields(func=ConfigurableField("f")),
            ["add_one"],
        ),
        (
            RunnableLambda(add_one).configurable_alternatives(
                ConfigurableField("which"), two=RunnableLambda(add_two)
            ),
            ["Alternatives<which>Input", "add_one", "add_two", "Alternatives<which>Output"],
        ),
        (
            RunnableLambda(add_one).with_fallbacks([RunnableLambda(add_two)] * 2),
            ["FallbacksInput", "add_one", "add_two", "add_two", "FallbacksOutput"],
        ),
        (
            RouterRunnable[Any]({"a": RunnableLambda(add_one)}),
            ["RouterInput", "add_one", "RouterOutput"],
        ),
        (
            RunnablePassthrough.assign(x=add_one),
            ["Assign<x>Input", "add_one", "RunnablePassthrough", "Assign<x>Output"],
        ),
        (
            RunnableBranch[Any, Any](
                (lambda _: True, add_one), (lambda _: True, add_two), JsonOutputParser()
            ),
            ["BranchInput", "add_one", "add_two", "JsonOutputParser", "BranchOutput"],
        ),
        (RunnableParallel[Any]({}), ["Parallel<>Input", "Parallel<>Output"]),
    ],
)
def test_graph_shows_every_kind_of_runnable(runnable: Runnable[Any, Any], names: list[str]) -> None:
    """Wrappers are drawn as the runnable inside."""
    assert names_of(runnable) == ["Input", *names, "Output"]
    assert max(map(len, runnable.get_graph().draw_ascii().splitlines())) >= len(names[0]) + 4
    assert runnable.get_graph().to_json()["nodes"][1]["name"] == names[0]
