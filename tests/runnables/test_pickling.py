"""Chains are pickled: functions by reference, or by value with cloudpickle."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import cloudpickle
import pytest

from batchrt import (
    AIMessage,
    ChatPromptTemplate,
    ConfigurableField,
    FewShotChatMessagePromptTemplate,
    FewShotPromptTemplate,
    JsonOutputParser,
    MarkdownListOutputParser,
    MessagesPlaceholder,
    PromptTemplate,
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
    StrOutputParser,
    Usage,
)
from tests.runnables.helpers import add_one, add_two


def parts(chunks: Iterator[str]) -> Iterator[str]:
    for chunk in chunks:
        yield chunk + "!"


def note(run: Any) -> None:
    pass


LAMBDA: Runnable[Any, Any] = RunnableLambda(add_one)
EXAMPLE = PromptTemplate.from_template("{x}")
CASES: dict[str, tuple[Runnable[Any, Any], Any]] = {
    "function": (LAMBDA, 1),
    "sequence": (LAMBDA | add_two, 1),
    "parallel": (RunnableParallel({"a": add_one, "b": add_two}), 1),
    "retry": (LAMBDA.with_retry(), 1),
    "binding": (LAMBDA.with_config(tags=["a"]).bind(extra=5), 1),
    "fallbacks": (LAMBDA.with_fallbacks([RunnableLambda(add_two)]), 1),
    "each": (LAMBDA.map(), [1, 2]),
    "branch": (RunnableBranch((bool, add_one), add_two), 1),
    "router": (RouterRunnable({"a": LAMBDA}), {"key": "a", "input": 1}),
    "listeners": (LAMBDA.with_listeners(on_end=note), 1),
    "alternatives": (LAMBDA.configurable_alternatives(ConfigurableField("x"), b=RunnableLambda(add_two)), 1),
    "fields": (EXAMPLE.configurable_fields(template=ConfigurableField("x")), {"x": 1}),
    "assign": (RunnablePassthrough.assign(n=itemgetter("a")), {"a": 1}),
    "pick": (RunnablePick("a"), {"a": 1}),
    "prompt": (PromptTemplate("{a} {b:.1f}", partial_variables={"a": 1}), {"b": 2}),
    "odd columns": (PromptTemplate("{Q1: how?}", columns=["Q1: how?"]), {"Q1: how?": 2}),
    "chat prompt": (
        ChatPromptTemplate([("system", "{a}"), MessagesPlaceholder("h", optional=True), AIMessage("x")]),
        {"a": 1, "h": ["b"]},
    ),
    "few shots": (FewShotPromptTemplate(examples=[{"x": 1}], example_prompt=EXAMPLE, suffix="{b}"), {"b": 2}),
    "few messages": (
        FewShotChatMessagePromptTemplate(
            examples=[{"x": 1}], example_prompt=ChatPromptTemplate.from_template("{x}")
        ),
        {},
    ),
    "text": (StrOutputParser(), AIMessage("a", usage=Usage(1, 2, 3))),
    "JSON": (JsonOutputParser(), "[1]"),
    "list": (MarkdownListOutputParser(), "- a"),
    "generator": (RunnableGenerator(parts), "a"),
}


@pytest.mark.parametrize("library", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
@pytest.mark.parametrize("case", CASES)
def test_pickled_chain_gives_the_same_output(case: str, library: Any) -> None:
    """And has the same description, so that a durable job goes on with it."""
    chain, value = CASES[case]
    again = pickle.loads(library.dumps(chain))
    assert again.invoke(value) == chain.invoke(value)
    assert again.describe().parts == chain.describe().parts
    assert repr(again) == repr(chain)


def test_pickled_lambda_goes_by_value_with_cloudpickle() -> None:
    """As Ray sends it to its workers."""
    factor = 3
    chain = RunnableLambda(lambda x: x * factor) | (lambda x: x + 1)
    again = pickle.loads(cloudpickle.dumps(chain))
    assert again.batch([1, 2]) == [4, 7]
