"""Agents of LangChain's on our client, and as leaves of our runs."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from langchain_core.tools import tool
from pydantic import SecretStr

import batchrt
from batchrt.integrations.langchain import BatchChatOpenAI, from_langchain, to_langchain
from tests.integrations.langchain.answers import Script, answer, calls
from tests.integrations.langchain.trees import Trees

agents = pytest.importorskip("langchain.agents", reason="needs the package langchain, which has agents")

pytestmark = pytest.mark.anyio


@tool
def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"sunny in {city}"


@tool
async def population(city: str) -> int:
    """Return the number of people in a city."""
    await anyio.lowlevel.checkpoint()
    return len(city) * 1000


def reply(body: dict[str, Any]) -> dict[str, Any]:
    """Call both tools for the city, then report what they returned."""
    messages = body["messages"]
    if messages[-1]["role"] != "tool":
        arguments = json.dumps({"city": messages[-1]["content"]})
        return answer(None, tool_calls=calls(("weather", arguments), ("population", arguments)))
    return answer(", ".join(message["content"] for message in messages if message["role"] == "tool"))


def last(state: Any) -> str:
    return str(state["messages"][-1].content)


async def test_agents_run_on_our_client_and_runtime() -> None:
    """An agent with two tools: its answers, its usage as the item's, its runs inside the item's."""
    script = Script(reply)
    model = BatchChatOpenAI(
        model="gpt-5-mini", base_url="http://server/v1", api_key=SecretStr("k"), transport=script.ours()
    )
    agent = agents.create_agent(model, [weather, population])
    ask: Any = batchrt.RunnableLambda(lambda city: {"messages": [("human", city)]}, inline=True)
    cities = ["Rome", "Oslo", "Lima"]
    expected = [last(await agent.ainvoke({"messages": [("human", city)]})) for city in cities]
    assert expected == [f"sunny in {city}, {len(city) * 1000}" for city in cities]

    chain = ask | agent | batchrt.RunnableLambda(last, inline=True)
    result = await chain.arun(cities, {"max_concurrency": 2})
    assert result.outputs == expected
    assert [outcome.usage.total_tokens for outcome in result if outcome.usage] == [30] * 3

    trees = Trees()
    config: Any = {"callbacks": [trees]}
    await from_langchain(agent).abatch([{"messages": [("human", city)]} for city in cities], config)
    assert [root.name for root in trees.roots] == ["LangGraph"] * 3


@pytest.mark.filterwarnings("ignore:This API is in beta")
async def test_agents_call_our_chains_as_tools() -> None:
    """A runnable of ours as a tool of an agent."""
    script = Script(
        lambda body: (
            answer("done")
            if body["messages"][-1]["role"] == "tool"
            else answer(None, tool_calls=calls(("upper", '{"text": "abc"}')))
        )
    )
    model = BatchChatOpenAI(
        model="gpt-5-mini", base_url="http://server/v1", api_key=SecretStr("k"), transport=script.ours()
    )
    upper = to_langchain(batchrt.RunnableLambda(lambda given: given["text"].upper())).as_tool(
        name="upper", description="Return the text in capitals.", arg_types={"text": str}
    )
    state = await agents.create_agent(model, [upper]).ainvoke({"messages": [("human", "go")]})
    assert [message.content for message in state["messages"]][-2:] == ["ABC", "done"]
