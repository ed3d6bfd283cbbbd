"""The contender: its name, its distributions, and its way through each kind of work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from benchmarks.harness.machine import installed

__all__ = [
    "API_KEY",
    "MODEL",
    "TEMPLATE",
    "Ask",
    "Chat",
    "ChatTarget",
    "Contender",
    "Embed",
    "Embedding",
    "EmbeddingTarget",
    "Steps",
    "question",
    "rows",
]

MODEL = "mock"
API_KEY = "benchmark-key"
TEMPLATE = "Name the category of: {lemma}: {gloss}"

InputRow: TypeAlias = dict[str, str]


@dataclass(frozen=True, slots=True)
class ChatTarget:
    """The server of a chat scenario and the limits of the client.

    Attributes:
        in_flight: requests at the same time.
        per_second: the rate that the server admits, if the client is told.
    """

    base_url: str
    in_flight: int
    per_second: float | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingTarget:
    """The server of the embeddings scenario and the limits of the client.

    Attributes:
        per_list: texts in a request.
    """

    base_url: str
    in_flight: int
    per_list: int


Ask: TypeAlias = Callable[[Sequence[InputRow]], Awaitable[Sequence[Any]]]
"""Send rows, and return an answer or anything else, such as an exception, for each, in their order."""
Chat: TypeAlias = Callable[[ChatTarget], AbstractAsyncContextManager[Ask]]
Embed: TypeAlias = Callable[[Sequence[str]], Awaitable[Any]]
"""Return a matrix, or a list of lists, with a row for each text."""
Embedding: TypeAlias = Callable[[EmbeddingTarget], AbstractAsyncContextManager[Embed]]
Steps: TypeAlias = Callable[[Callable[[int], Awaitable[int]], int], Callable[[Sequence[int]], Awaitable[Any]]]
"""Given an async function and the number in flight, return what runs inputs through it three times."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work, and what a reader has to know to call it fair.

    Attributes:
        key: names it in results.
        name: names it in tables.
        distributions: what it is made of; the first one's version is named beside it.
        use: how it is used, in a sentence or two.
        imports: the statement that a user's program begins with; none for a contender that is several
            libraries, or not one.
        chat, embedding, steps: its ways through the kinds of work that it has an interface for.
        divisors: of the items that it gets of a scenario, by its key, where it is slow.
        full_only: it is measured in full runs alone, since it is too large to be installed for a quick one.
        loops: event loops that it is measured on; its connections may depend on them.
    """

    key: str
    name: str
    distributions: tuple[str, ...]
    use: str
    imports: str = ""
    chat: Chat | None = None
    embedding: Embedding | None = None
    steps: Steps | None = None
    divisors: Mapping[str, int] = field(default_factory=dict)
    full_only: bool = False
    loops: tuple[str, ...] = ("asyncio",)

    def missing(self) -> str:
        """Return the reason why it cannot be measured in this environment, or an empty text."""
        lacking = [name for name in self.distributions if installed(name) is None]
        return f"not installed: {', '.join(lacking)}" if lacking else ""

    def items_of(self, scenario: str, items: int) -> int:
        """Return how many of the items of a scenario it gets in a quick run."""
        return items // self.divisors.get(scenario, 1)

    def version(self) -> str:
        """Return the versions of its distributions."""
        return ", ".join(f"{name} {installed(name)}" for name in self.distributions if installed(name))


def rows(count: int) -> list[InputRow]:
    """Return inputs about as long as a dictionary's entries."""
    gloss = "a long-legged wading bird of shallow waters, known for its patience"
    return [{"lemma": f"entry {number}", "gloss": gloss} for number in range(count)]


def question(row: InputRow) -> str:
    """Return the prompt that each client has to make of a row."""
    return TEMPLATE.format_map(row)
