"""LangChain's models on our client: the same options, or an error that names the one that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnableParallel
from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings
from pydantic import SecretStr

import batchrt
from batchrt.integrations.langchain import BatchChatOpenAI, from_langchain
from batchrt.integrations.langchain.native import client_options, native_model
from batchrt.integrations.langchain.native_chat import NativeChat
from batchrt.testing import MockServer
from tests.integrations.langchain.answers import Script, answer

pytestmark = pytest.mark.anyio

BASE: Any = {"model": "gpt-5-mini", "api_key": "k", "base_url": "http://server/v1"}


def test_native_options_are_those_of_the_model() -> None:
    """Address, key, timeout, retries, organization, headers and query reach our client."""
    model = ChatOpenAI(
        **BASE,
        timeout=7,
        max_retries=5,
        organization="org",
        default_headers={"x-team": "a"},
        default_query={"v": "1"},
    )
    options = client_options(model)
    assert options.pop("api_key").get_secret_value() == "k"
    assert options == {
        "base_url": "http://server/v1?v=1",
        "timeout": 7,
        "max_retries": 5,
        "organization": "org",
        "project": None,
        "extra_headers": {"x-team": "a"},
        "http_client": None,
    }


def test_native_timeout_is_ten_minutes_unless_it_is_given() -> None:
    """LangChain's model waits for ever without one; an explicit `None` says so."""
    assert client_options(ChatOpenAI(**BASE))["timeout"] == 600
    assert client_options(ChatOpenAI(**BASE, timeout=None))["timeout"] is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"api_key": lambda: "k"}, "api_key"),
        ({"use_responses_api": True}, "use_responses_api"),
        ({"reasoning": {"effort": "low"}}, "use_responses_api"),
        ({"openai_proxy": "http://proxy:1"}, "openai_proxy"),
        ({"http_socket_options": [(1, 2, 3)]}, "http_socket_options"),
        ({"timeout": (1.0, 2.0)}, "request_timeout"),
    ],
)
def test_native_options_that_cannot_be_carried_are_named(options: dict[str, Any], named: str) -> None:
    """The error says which, and what to do; without `native` the model is a leaf."""
    model = ChatOpenAI(**{**BASE, **options})
    with pytest.raises(
        ValueError, match=rf"cannot carry these options of ChatOpenAI: {named}.*without native"
    ):
        from_langchain(model, native=True)
    with pytest.raises(
        ValueError,
        match=rf"cannot carry these options of BatchChatOpenAI: {named}.*take a model of langchain-openai",
    ):
        BatchChatOpenAI(**{**BASE, **options})
    assert from_langchain(model).get_name() == "ChatOpenAI"


async def test_native_azure_is_asked_at_its_deployment() -> None:
    """Deployment, version and key as openai's Azure client sends them, and its metadata in the answer."""
    reply = answer("hi")
    reply["prompt_filter_results"] = [{"prompt_index": 0}]
    theirs, ours = Script(lambda _body: reply), Script(lambda _body: reply)
    common: Any = {
        "azure_endpoint": "http://azure",
        "api_key": "k",
        "api_version": "2024-06-01",
        "model": "gpt-4o",
    }
    messages = []
    deployments: Any = ({"azure_deployment": "dep"}, {})
    for script, native in ((theirs, False), (ours, True)):
        for deployment in deployments:
            if native:
                import httpx

                http: Any = httpx.AsyncClient(transport=script.ours())
            else:
                http = script.theirs()
            model = AzureChatOpenAI(
                **common, **deployment, http_async_client=http, http_client=script.theirs(sync=True)
            )
            message = await from_langchain(model, native=native).ainvoke("hi")
            messages.append({**message.model_dump(), "id": None})
    assert theirs.urls == ours.urls
    assert "/openai/deployments/dep/chat/completions?api-version=2024-06-01" in ours.urls[0]
    assert [headers["api-key"] for headers in ours.headers] == ["k", "k"]
    assert "authorization" not in ours.headers[0]
    assert theirs.bodies == ours.bodies
    assert messages[:2] == messages[2:]
    assert messages[2]["response_metadata"]["prompt_filter_results"] == [{"prompt_index": 0}]


def test_native_model_that_stands_twice_is_one_client() -> None:
    """One model in two places of a chain has one copy, and its quota is shared anyway."""
    model = ChatOpenAI(**BASE)
    chain: Any = from_langchain(RunnableParallel(a=model, b=RunnableLambda(lambda t: t) | model), native=True)
    found: list[NativeChat] = []

    def walk(runnable: Any) -> None:
        if isinstance(runnable, NativeChat):
            found.append(runnable)
        for part in (
            *getattr(runnable, "steps", ()),
            *getattr(runnable, "steps__", {}).values(),
            *filter(None, [getattr(runnable, "inner", None), getattr(runnable, "_inner", None)]),
        ):
            walk(part)

    walk(chain)
    assert len(found) == 2
    assert found[0] is found[1]


async def test_native_configurable_models_keep_their_client(server: MockServer) -> None:
    """A field that a call configures makes a model for each value, not for each item."""
    model = ChatOpenAI(**{**BASE, "base_url": server.base_url}).configurable_fields(
        temperature=ConfigurableField(id="heat")
    )
    chain = from_langchain(model, native=True)
    outputs = await chain.abatch(["a"] * 4, {"configurable": {"heat": 0.1}})
    assert len({output.text for output in outputs}) == 1
    assert len(chain._inner._prepared._steps) == 1  # type: ignore[attr-defined]


def embeddings(server: MockServer, **options: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        model="text-embedding-3-small", base_url=server.base_url, api_key=SecretStr("k"), **options
    )


def requests_at(server: MockServer) -> int:
    return server.provider.log.snapshot().requests


async def test_native_embeddings_give_the_same_vectors(server: MockServer, their_http: Any) -> None:
    """As a runnable of texts, and as a function that is its query method: lists instead of single texts."""
    theirs = embeddings(server, check_embedding_ctx_length=False, dimensions=8, http_async_client=their_http)
    texts = [f"text {n}" for n in range(20)]
    expected = await theirs.aembed_documents(texts)
    ours = from_langchain(theirs, native=True)
    assert isinstance(ours, batchrt.OpenAIEmbeddings)
    sent = requests_at(server)
    assert await ours.abatch(texts) == expected
    chain = from_langchain(
        RunnableLambda(lambda text: text) | RunnableLambda(theirs.aembed_query), native=True
    )
    assert await chain.abatch(texts) == expected
    assert requests_at(server) - sent <= 8


@pytest.mark.parametrize(
    ("options", "named"),
    [({"skip_empty": True}, "skip_empty"), ({"openai_proxy": "http://p:1"}, "openai_proxy")],
)
def test_native_embeddings_name_what_cannot_be_carried(
    server: MockServer, options: dict[str, Any], named: str
) -> None:
    """As for chat models."""
    with pytest.raises(ValueError, match=rf"of OpenAIEmbeddings: .*{named}"):
        from_langchain(embeddings(server, **options), native=True)
    with pytest.raises(TypeError, match="native=True"):
        from_langchain(embeddings(server))


async def test_native_tools_of_the_responses_api_go_its_own_way() -> None:
    """A bound tool that only the Responses API has is sent by openai's client, not by ours."""
    script = Script(lambda _body: (500, {"error": {"message": "here"}}))
    model = ChatOpenAI(**BASE, max_retries=0, http_async_client=script.theirs())
    native = native_model(model, lambda error: error)
    bound: Any = from_langchain(native.bind(tools=[{"type": "web_search"}]), native=True)
    with pytest.raises(Exception, match="here"):
        await bound.ainvoke("hi")
    assert script.urls == ["http://server/v1/responses"]
