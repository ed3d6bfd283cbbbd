"""What a type checker makes of completion models: checked by mypy and pyright, not run."""

from __future__ import annotations

from typing import assert_type

from batchrt import (
    ChatOpenAI,
    OpenAI,
    PromptTemplate,
    RunnableBinding,
    RunnableLambda,
    RunnableSequence,
    StringPromptValue,
    StrOutputParser,
)


def length(text: str) -> int:
    return len(text)


def how_many(texts: list[str]) -> int:
    return len(texts)


async def texts(n: int) -> None:
    """One text for each prompt, or a list of them where `n` is given."""
    model = OpenAI("m")
    assert_type(model, OpenAI[str])
    assert_type(await model.ainvoke("x"), str)
    assert_type(await model.abatch(["x"]), list[str])
    several = OpenAI("m", n=3, temperature=0, max_batch_size=5)
    assert_type(several, OpenAI[list[str]])
    assert_type(OpenAI("m", n=n), OpenAI[list[str]])
    assert_type(several.batch(["x"]), list[list[str]])
    async with model as same:
        assert_type(same, OpenAI[str])
    async with ChatOpenAI("m") as chat:
        assert_type(chat, ChatOpenAI)


def chains() -> None:
    """It stands where a chat model stands."""
    prompt = PromptTemplate.from_template("{x}")
    assert_type(prompt.invoke({}), StringPromptValue)
    chain = prompt | OpenAI("m", stop=["x"]) | StrOutputParser() | RunnableLambda(length)
    assert_type(chain.invoke({}), int)
    counted = prompt | OpenAI("m", n=2) | RunnableLambda(how_many)
    assert_type(counted.invoke({}), int)
    assert_type(OpenAI("m").bind(stop="x").invoke("x"), str)
    _bound: RunnableBinding[str, str] = OpenAI("m").bind(temperature=0)
    _chain: RunnableSequence[str, int] = OpenAI("m") | length
