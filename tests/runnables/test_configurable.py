"""Fields and alternatives that a run's `configurable` chooses."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from batchrt import (
    ChatOpenAI,
    ChatPromptTemplate,
    ConfigurableField,
    FewShotPromptTemplate,
    PromptTemplate,
    RunConfig,
    Runnable,
    RunnableLambda,
    StrOutputParser,
)
from tests.runnables.helpers import add_one, add_two, everyway, raises_everyway

pytestmark = pytest.mark.anyio

HOW = ConfigurableField(id="how")


def chosen(**values: Any) -> RunConfig:
    return {"configurable": values}


class Scale(Runnable[int, int]):
    """A class of a user's own."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    async def ainvoke(self, value: int, config: RunConfig | None = None, **_: Any) -> int:  # type: ignore[override]
        return value * self.factor


async def test_configurable_fields_are_replaced_for_a_run() -> None:
    """By the run's config, a bound one, or an item's; without one, the fields stay as they are."""
    scale = Scale(2).configurable_fields(factor=HOW)
    assert await everyway(scale, 5) == 10
    assert await everyway(scale, 5, chosen(how=3)) == 15
    assert await everyway(scale.with_config(configurable={"how": 4}), 5) == 20
    assert await everyway(RunnableLambda(add_one) | scale | add_one, 4, chosen(how=3)) == 16
    configs = [chosen(how=1), chosen(), chosen(how=[1])]
    assert await scale.abatch([5, 5, 2], configs) == [5, 10, [1, 1]]


async def test_configurable_fields_keep_values_of_different_types_apart() -> None:
    """1, 1.0 and True are equal, and different fields all the same."""
    scale = Scale(2).configurable_fields(factor=HOW)
    outputs = await scale.abatch([1, 1, 1], [chosen(how=1), chosen(how=1.0), chosen(how=True)])
    assert [type(output) for output in outputs] == [int, float, int]
    many = await scale.abatch([1] * 500, [chosen(how=factor) for factor in range(500)])
    assert many == list(range(500))


async def test_configurable_fields_of_prompts_are_their_templates() -> None:
    """With the partial variables that they had."""
    text = PromptTemplate.from_template("{a} {b}").partial(a=1).configurable_fields(template=HOW)
    assert (await everyway(text, {"b": 2}, chosen(how="{b}, {a}"))).to_string() == "2, 1"
    chat = ChatPromptTemplate.from_template("{a}").configurable_fields(messages=HOW)
    filled = await everyway(chat, {"a": 1}, chosen(how=[("system", "s{a}")]))
    assert filled.to_string() == "System: s1"
    shots = FewShotPromptTemplate(
        examples=[{"x": 1}], example_prompt=PromptTemplate.from_template("{x}"), suffix="{a}"
    ).configurable_fields(prefix=HOW)
    assert (await everyway(shots, {"a": 2}, chosen(how="P"))).to_string() == "P\n\n1\n\n2"


async def test_configurable_fields_of_a_model_are_its_options() -> None:
    """`model_name` is LCEL's name of the model."""
    bodies: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={"choices": [{"message": {"content": "yes"}}]})

    heat, name = ConfigurableField("heat"), ConfigurableField("name")
    model = ChatOpenAI("small", base_url="http://mock/v1", transport=httpx.MockTransport(answer))
    chain = model.configurable_fields(model_name=name, temperature=heat) | StrOutputParser()
    one: RunConfig = {"max_concurrency": 1}
    configs: list[RunConfig] = [{**one, **chosen(name="large", heat=0.5)}, one]
    assert await chain.abatch(["a", "b"], configs) == ["yes"] * 2
    assert [(body["model"], body.get("temperature")) for body in bodies] == [("large", 0.5), ("small", None)]


def test_configurable_fields_are_checked_at_once() -> None:
    """An unknown field, one of the client's, and something that is no ConfigurableField."""
    model = ChatOpenAI("m", base_url="http://mock/v1")
    with pytest.raises(ValueError, match=r"no option 'temprature'"):
        model.configurable_fields(temprature=HOW)
    with pytest.raises(ValueError, match="belongs to the model as a whole"):
        model.configurable_fields(base_url=HOW)
    with pytest.raises(ValueError, match="no field 'size'; it has factor"):
        Scale(2).configurable_fields(size=HOW)
    with pytest.raises(TypeError, match="ConfigurableField"):
        Scale(2).configurable_fields(factor="how")  # type: ignore[arg-type]


async def test_configurable_alternatives_are_chosen_by_a_run() -> None:
    """Each item may have its own; functions make theirs when the chain is built."""
    either = RunnableLambda(add_one).configurable_alternatives(
        HOW, default_key="one", two=RunnableLambda(add_two), made=lambda: Scale(10)
    )
    assert await everyway(either, 1) == 2
    assert await everyway(either, 1, chosen(how="one")) == 2
    assert await everyway(either, 1, chosen(how="two")) == 3
    configs = [chosen(how=key) for key in ("made", "two", "one")]
    assert await either.abatch([1, 1, 1], configs) == [10, 3, 2]
    assert await everyway(either.with_config(configurable={"how": "made"}) | add_one, 1) == 11


async def test_configurable_alternative_that_is_not_there_is_the_items_error() -> None:
    """It names the alternatives."""
    either = RunnableLambda(add_one).configurable_alternatives(HOW, two=RunnableLambda(add_two))
    await raises_everyway(either.with_config(configurable={"how": "x"}), 1, ValueError, "'default', 'two'")
    with pytest.raises(ValueError, match="another key"):
        RunnableLambda(add_one).configurable_alternatives(HOW, default=RunnableLambda(add_two))
    with pytest.raises(TypeError, match="function without parameters"):
        RunnableLambda(add_one).configurable_alternatives(HOW, two=add_two)


def test_configurable_runnables_are_described_by_their_parts() -> None:
    """A changed alternative is a changed part."""
    one = RunnableLambda(add_one).configurable_alternatives(HOW, two=RunnableLambda(add_two))
    other = RunnableLambda(add_one).configurable_alternatives(HOW, two=RunnableLambda(add_one))
    assert one.describe().parts != other.describe().parts
    assert Scale(2).configurable_fields(factor=HOW).describe().parts


async def test_configurable_function_may_be_of_another_kind() -> None:
    """Async in place of sync, or with a parameter for the configuration."""

    def told(value: int, config: RunConfig) -> Any:
        return value, config["configurable"]["how"].__name__

    chain = RunnableLambda(add_one).configurable_fields(func=HOW)
    assert await chain.abatch([1, 1, 1], [chosen(), chosen(how=add_two), chosen(how=told)]) == [
        2,
        3,
        (1, "told"),
    ]
