"""Poison among good items: its own item fails, by an error with a type, and every other item is right."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchrt import BatchError, ChatOpenAI, PromptTemplate, StrOutputParser
from tests import virtual
from tests.reliability.conftest import Figure
from tests.reliability.poison import ANSWERS, ITEMS, answer_to
from tests.reliability.tiers import tiers

EVERY = 4
"""One item in so many is poisoned: fewer answers than that in a row, and the provider counts as up."""
LONGEST = 2_000.0
"""Virtual seconds in which a run must end."""
MOST_GROWTH = 300 * 2**20
"""Bytes that the process may grow by, the largest answers included."""


def chain_of(respond: Any) -> Any:
    async def handle(request: httpx.Request) -> httpx.Response:
        response: httpx.Response = respond(json.loads(request.content)["messages"][-1]["content"])
        return response

    transport = httpx.MockTransport(handle)
    model = ChatOpenAI("m", base_url="http://mock/v1", api_key="k", max_retries=0, transport=transport)
    return PromptTemplate.from_template("say {text}") | model | StrOutputParser()


def resident() -> int:
    """Return the bytes of memory that this process has."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def run(chain: Any, inputs: Iterator[Any]) -> list[Exception | None]:
    """Run `inputs` in virtual time, with bounded memory, and return the errors of the poisoned items."""
    poisoned: list[Exception | None] = []

    async def main() -> None:
        before = resident()
        async with chain.arun_iter(inputs, {"max_concurrency": 10, "timeout": 60.0}) as outcomes:
            async for outcome in outcomes:
                if outcome.index % EVERY == 1:
                    poisoned.append(outcome.error)
                else:
                    assert outcome.output == f"SAY GOOD {outcome.index}", outcome
                if outcome.index % 1000 == 0:
                    assert resident() - before < MOST_GROWTH
        assert outcomes.ended is None

    virtual.run(main, longest=LONGEST)
    return poisoned


def check(error: Exception | None) -> None:
    """Assert that a poisoned item has no error, or one with a type and a message of its own."""
    if error is None:
        return
    assert isinstance(error, BatchError | TypeError | ValueError | KeyError | RuntimeError), repr(error)
    assert str(error)
    assert len(str(error)) < 5_000


@pytest.mark.parametrize("count", tiers(12, 10_000))
@pytest.mark.parametrize("kind", ITEMS)
def test_poison_item_fails_alone(kind: str, count: int, figure: Figure) -> None:
    """An input that cannot be used is that item's error, in a prompt or before it."""
    # Items that take long to make or to refuse are fewer.
    count = min(count, 1_000) if kind in ("long text", "deep list", "huge number") else count

    def inputs() -> Iterator[Any]:
        for place in range(count):
            yield ITEMS[kind]() if place % EVERY == 1 else {"text": f"good {place}"}

    found = run(chain_of(answer_to), inputs())
    assert len(found) == len(range(1, count, EVERY))
    for error in found:
        check(error)
    figure(items=count)


@pytest.mark.parametrize("count", tiers(12, 10_000))
@pytest.mark.parametrize("kind", ANSWERS)
def test_poison_answer_fails_alone(kind: str, count: int, figure: Figure) -> None:
    """An answer that cannot be read is that item's error; each is an error of the provider's, or a text."""
    # Answers that take long to make or to read are fewer.
    count = min(count, 200) if kind == "gzip bomb" else count
    count = min(count, 1_000) if "deep" in kind or "end" in kind else count
    made = itertools.count()

    def respond(text: str) -> httpx.Response:
        if "poison" in text:
            next(made)
            return ANSWERS[kind]()
        return answer_to(text)

    def inputs() -> Iterator[Any]:
        for place in range(count):
            yield {"text": "poison" if place % EVERY == 1 else f"good {place}"}

    found = run(chain_of(respond), inputs())
    assert len(found) == len(range(1, count, EVERY))
    assert next(made) >= len(found)
    for error in found:
        check(error)
        assert error is None or isinstance(error, BatchError), repr(error)
    figure(items=count)
