"""Descriptions of runnables: their parts, and the request of an input."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from batchrt import (
    AIMessage,
    ChatOpenAI,
    ChatPromptTemplate,
    JsonOutputParser,
    OpenAI,
    OpenAIEmbeddings,
    PromptTemplate,
    PydanticOutputParser,
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    StrOutputParser,
)


class Verdict(BaseModel):
    word: str


class Longer(BaseModel):
    word: str
    reason: str


def model(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(options.pop("name", "m"), base_url="http://mock/v1", api_key="k", **options)


def names(runnable: Runnable[Any, Any]) -> list[str]:
    return [part.name for part in runnable.describe().parts]


def changed(old: Runnable[Any, Any], new: Runnable[Any, Any]) -> set[str]:
    before, after = (dict(part[:2] for part in each.describe().parts) for each in (old, new))
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_description_of_a_chain_renders_its_request() -> None:
    """The bytes that would be sent, and the parts by their names."""
    prompt = ChatPromptTemplate.from_messages([("system", "Be {tone}."), ("human", "{q}")])
    described = (prompt | model(temperature=0.5) | StrOutputParser()).describe()
    assert described.render is not None
    assert described.asks
    assert described.render({"tone": "brief", "q": "why", "other": 1}) == (
        b'{"model":"m","temperature":0.5,"messages":[{"role":"system","content":"Be brief."},'
        b'{"role":"user","content":"why"}]}'
    )
    parts = ["system prompt", "prompt", "model", "temperature", "endpoint", "parser"]
    assert [part.name for part in described.parts] == parts
    assert described.rendered == 2
    assert described.fields is not None
    assert set(described.fields) == {"tone", "q"}


PROMPT = PromptTemplate.from_template("{q}")
CHANGES: list[tuple[Runnable[Any, Any], Runnable[Any, Any], set[str]]] = [
    (PROMPT | model(), PROMPT | model(name="n"), {"model"}),
    (PROMPT | model(), PROMPT | model(temperature=0.0), {"temperature"}),
    (PROMPT | model(), PROMPT | model().bind(seed=1), {"seed"}),
    (PROMPT | model(), PromptTemplate.from_template("{q}?") | model(), {"prompt"}),
    (PROMPT | model(), PROMPT | model(max_retries=5, timeout=3.0, extra_headers={"x": "y"}), set()),
    (PROMPT | model(), PROMPT | OpenAI("m", base_url="http://mock/v1", api_key="k"), {"endpoint", "output"}),
    (
        model().with_structured_output(Verdict),
        model().with_structured_output(Longer),
        {"schema", "output"},
    ),
    (model() | JsonOutputParser(), model() | StrOutputParser(), {"parser"}),
    (model() | PydanticOutputParser(Verdict), model() | PydanticOutputParser(Longer), {"parser"}),
    (model().with_retry(), model(), set()),
    (model().with_fallbacks([model(name="a")]), model().with_fallbacks([model(name="b")]), {"model #2"}),
    (
        ChatPromptTemplate.from_messages([("system", "a"), ("human", "{q}")]),
        ChatPromptTemplate.from_messages([("system", "b"), ("human", "{q}")]),
        {"system prompt"},
    ),
    (PROMPT.partial(tone="a"), PROMPT.partial(tone="b"), {"prompt"}),
    (RunnableBranch((bool, model()), PROMPT), RunnableBranch((bool, model(name="n")), PROMPT), {"model"}),
    (model().map(), model(name="n").map(), {"model"}),
    (RunnableParallel(a=PROMPT), RunnableParallel(b=PROMPT), {"keys"}),
    (
        RunnablePassthrough.assign(a=PROMPT),
        RunnablePassthrough.assign(a=PROMPT | model()),
        {"model", "endpoint"},
    ),
    (
        OpenAIEmbeddings("m", base_url="http://mock/v1", api_key="k"),
        OpenAIEmbeddings("m", base_url="http://mock/v1", api_key="k", dimensions=8),
        {"dimensions"},
    ),
]


@pytest.mark.parametrize(("old", "new", "parts"), CHANGES, ids=range(len(CHANGES)))
def test_description_names_the_part_that_changed(
    old: Runnable[Any, Any], new: Runnable[Any, Any], parts: set[str]
) -> None:
    """That part, and no other."""
    assert changed(old, new) == parts


def test_description_renders_through_inline_steps() -> None:
    """Lookups and dicts before the prompt are rendered; a function of the user's is not called."""
    mapping: dict[str, Any] = {"q": RunnablePassthrough()}
    described = (RunnableParallel(mapping) | PROMPT | model()).describe()
    assert described.render is not None
    assert b'"content":"hi"' in described.render("hi")
    calls: list[Any] = []
    described = (RunnableLambda(calls.append) | PROMPT | model()).describe()
    assert described.render is None
    assert calls == []


def test_description_of_a_prompt_with_functions_is_not_fixed() -> None:
    """A function that fills a field may return something else each time."""
    assert (PROMPT | model()).describe().is_fixed
    assert not (PROMPT.partial(today=lambda: "now") | model()).describe().is_fixed


def test_description_has_the_class_of_the_outputs() -> None:
    """That of the last step."""
    assert (PROMPT | model()).describe().output_type is AIMessage
    assert (PROMPT | model() | StrOutputParser()).describe().output_type is None
    assert model().with_structured_output(Verdict).describe().output_type is Verdict
    assert (model() | PydanticOutputParser(Verdict)).describe().output_type is Verdict


class Own(Runnable[int, int]):
    def __init__(self, factor: int) -> None:
        self.factor = factor

    async def ainvoke(self, input: int, config: Any = None, **kwargs: Any) -> int:  # noqa: A002
        return input * self.factor


def test_description_of_a_class_of_the_users_is_its_code_and_its_attributes() -> None:
    """Another attribute is another description."""
    assert changed(Own(2), Own(2)) == set()
    assert changed(Own(2), Own(3)) == {"class Own"}
