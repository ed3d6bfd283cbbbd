"""OpenAIEmbeddings: every text its own vector, whatever the server is like."""

from __future__ import annotations

import json
import struct
from typing import Any

import anyio
import httpx
import pytest

from batchrt.errors import (
    AuthenticationError,
    BadRequestError,
    ContextLengthError,
)
from batchrt.messages import Usage
from batchrt.providers.embeddings.model import OpenAIEmbeddings
from batchrt.runnables.lambdas import RunnableLambda
from batchrt.runnables.parallel import RunnableParallel
from tests.providers.embeddings.embedding import (
    WIDTH,
    answer,
    behind,
    mock,
    model,
    on_mock_clock,
    refusal,
    vectors,
    words,
)

pytestmark = pytest.mark.anyio


async def test_embeddings_a_text_has_a_vector() -> None:
    """A list of numbers, exactly those that were sent."""
    provider = mock()
    assert await model(provider).ainvoke("hello") == provider.vector_of("hello", model="m")


@pytest.mark.parametrize("share_lists", [False, True])
async def test_embeddings_as_bytes_has_the_same_vectors(share_lists: bool) -> None:
    """As float32, little-endian; in lists, alone, and beside the model itself, with the model's options."""
    provider = mock()
    embeddings = model(provider, max_batch_size=3, share_lists=share_lists)
    texts = [*words(7), "", words(7)[0]]
    chain: RunnableParallel[Any] = RunnableParallel(numbers=embeddings, raw=embeddings.as_bytes())
    raw: list[Any] = await embeddings.as_bytes().abatch(texts, return_exceptions=True)
    assert isinstance(raw[7], BadRequestError)
    del raw[7], texts[7]
    assert [list(struct.unpack(f"<{WIDTH}f", each)) for each in raw] == vectors(provider, texts)
    both = await chain.ainvoke("hello")
    assert list(struct.unpack(f"<{WIDTH}f", both["raw"])) == both["numbers"]
    short = await embeddings.as_bytes().ainvoke("hello", dimensions=4)
    assert len(short) == 16


async def test_embeddings_a_request_is_what_servers_expect() -> None:
    """Texts as strings, in a list unless there is only one, base64 asked for by name, options as given."""
    seen: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url == "http://mock/v1/embeddings?version=3"
        assert request.headers["authorization"] == "Bearer k"
        seen.append(json.loads(request.content))
        count = 1 if isinstance(seen[-1]["input"], str) else len(seen[-1]["input"])
        data = [{"index": index, "embedding": "AACAPwAAgD8="} for index in range(count)]
        return httpx.Response(200, json={"data": data})

    embeddings = OpenAIEmbeddings(
        "m",
        base_url="http://mock/v1?version=3",
        api_key="k",
        transport=httpx.MockTransport(handle),
        dimensions=2,
        extra_body={"user": "me"},
    )
    await embeddings.abatch(["é\n", "b"])
    await embeddings.ainvoke("c")
    same = {"model": "m", "dimensions": 2, "user": "me", "encoding_format": "base64"}
    assert seen == [{**same, "input": ["é\n", "b"]}, {**same, "input": "c"}]


async def test_embeddings_texts_share_requests() -> None:
    """2,048 of them at most; each has its own vector, in order, and equal ones are sent once."""
    provider = mock()
    texts = [*words(5000), *words(100)]
    assert await model(provider).abatch(texts, {"max_concurrency": 3}) == vectors(provider, texts)
    log = provider.log.snapshot()
    assert (log.requests, log.most_items, log.items) == (3, 2048, 5000)
    assert log.peak_in_flight <= 3


async def test_embeddings_texts_meet_inside_a_chain() -> None:
    """One request for all, though each item comes by itself."""
    provider = mock()
    chain = RunnableLambda(str.upper) | model(provider) | RunnableLambda(len)
    assert await chain.abatch(["a", "b", "c", "a"]) == [WIDTH] * 4
    log = provider.log.snapshot()
    assert (log.requests, log.items) == (1, 3)


async def test_embeddings_langchains_names_do_the_same() -> None:
    """Documents and queries."""
    provider = mock()
    embeddings = model(provider)
    texts = ["a", "b", "a"]
    assert await embeddings.aembed_documents(texts) == vectors(provider, texts)
    assert await embeddings.aembed_query("a") == provider.vector_of("a", model="m")


def test_embeddings_langchains_names_work_in_sync_code() -> None:
    """On the background loop."""
    provider = mock()
    embeddings = model(provider)
    assert embeddings.embed_documents(iter(["a", "b"])) == vectors(provider, ["a", "b"])
    assert embeddings.embed_query("a") == provider.vector_of("a", model="m")


def test_embeddings_documents_are_under_way_four_lists_at_a_time() -> None:
    """Unless the configuration says otherwise."""
    provider = mock(latency=1.0)
    _, seconds = on_mock_clock(lambda: model(provider, max_batch_size=5).aembed_documents(words(60)))
    assert provider.log.snapshot().peak_in_flight == 4
    assert seconds == pytest.approx(3)


async def test_embeddings_tokens_are_counted_where_they_were_billed() -> None:
    """Each item has its share, and the shares add up."""
    result = await model(mock()).arun(["a text", "another text", "a third text"])
    assert result.usage == Usage(8, 0, 8)
    assert all(outcome.usage is not None for outcome in result)


async def test_embeddings_dimensions_can_be_bound() -> None:
    """For a part of a chain; the two do not share lists."""
    provider = mock()
    both = await (
        RunnableLambda(str.lower) | {"a": model(provider), "b": model(provider).bind(dimensions=3)}
    ).abatch(["X", "Y"])
    assert [len(row["a"]) for row in both] == [WIDTH] * 2
    assert [row["b"] for row in both] == vectors(provider, ["x", "y"], dimensions=3)


async def test_embeddings_calls_of_several_runs_share_a_list_if_asked() -> None:
    """As in a service, whose requests call `ainvoke` each for itself."""
    provider = mock()
    embeddings = model(provider, share_lists=True)
    got: dict[str, list[float]] = {}

    async def one(text: str) -> None:
        got[text] = await embeddings.ainvoke(text)

    async with anyio.create_task_group() as group:
        for text in words(20):
            group.start_soon(one, text)
    assert got == {text: provider.vector_of(text, model="m") for text in words(20)}
    assert provider.log.snapshot().requests < 5


# What is wrong with a text by itself


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("", BadRequestError, "the text is empty"),
        (None, BadRequestError, "takes a str, not NoneType"),
        (["a"], BadRequestError, "takes a str, not list"),
        ("half a character: \ud83d", BadRequestError, r"half a surrogate pair \(U\+D83D\) at position 18"),
        (
            "word " * 8193,
            ContextLengthError,
            "at least 8193 tokens .40965 characters., and the model takes",
        ),
    ],
    ids=["empty", "None", "list", "surrogate", "too long"],
)
async def test_embeddings_a_bad_text_has_its_own_error_before_anything_is_sent(
    text: Any, error: Any, said: str
) -> None:
    """The others do not hear of it."""
    provider = mock()
    embeddings = model(provider, server="openai")
    got: list[Any] = await embeddings.abatch(["a", text, "b"], return_exceptions=True)
    first, bad, last = got
    assert [first, last] == vectors(provider, ["a", "b"])
    with pytest.raises(error, match=said) as caught:
        raise bad
    assert caught.value.param == "input"
    with pytest.raises(error, match=said):
        await embeddings.ainvoke(text)
    assert provider.log.snapshot().requests == 1


@pytest.mark.parametrize("server", ["infinity", "vllm", "ollama", "llama-cpp-python"])
async def test_embeddings_an_empty_text_is_sent_where_it_is_taken(server: Any) -> None:
    """It has a vector there."""
    provider = mock(server=server)
    assert await model(provider, server=server).ainvoke("") == provider.vector_of("", model="m")


TOO_LONG = "x" * 8000
"""2,000 tokens as the mock counts them; nobody could be certain."""


@pytest.mark.parametrize("server", ["openai", "azure", "tei", "llama-server", "llama-cpp-python", "vllm"])
async def test_embeddings_a_text_that_the_server_finds_too_long_stands_alone(server: Any) -> None:
    """Its error says how long it is and what to do; all others have their vectors."""
    provider = mock(server=server, max_input_tokens=500)
    texts = [*words(20), TOO_LONG, *words(10), "another" + TOO_LONG]
    got: list[Any] = await model(provider, max_retries=0).abatch(texts, return_exceptions=True)
    for text, vector in zip(texts, got, strict=True):
        if TOO_LONG not in text:
            assert vector == provider.vector_of(text, model="m")
        else:
            assert isinstance(vector, ContextLengthError)
            assert f"the text has {len(text)} characters" in vector.message
            assert "truncate=True" in vector.message
            assert vector.status in {400, 413, 500}


@pytest.mark.parametrize("server", ["openai", "tei", "llama-server", "vllm"])
async def test_embeddings_a_text_that_is_too_long_is_cut_if_asked(server: Any) -> None:
    """To what the server says it takes, whether it says it or not."""
    provider = mock(server=server, max_input_tokens=500)
    embeddings = model(provider, truncate=True, max_retries=0)
    got = await embeddings.abatch(["a", TOO_LONG, "b"])
    assert [got[0], got[2]] == vectors(provider, ["a", "b"])
    possible = [TOO_LONG[:length] for length in range(1000, 2001)]
    assert got[1] in vectors(provider, possible)


async def test_embeddings_a_text_is_cut_to_so_many_tokens() -> None:
    """Before anything is sent, by the estimate."""
    seen: list[str] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        seen.extend(body["input"])
        return answer(body["input"])

    await behind(handle, truncate=100).abatch(["short", "x" * 10_000])
    assert seen[0] == "short"
    assert 250 <= len(seen[1]) <= 400
    assert set(seen[1]) == {"x"}


async def test_embeddings_a_text_that_is_never_short_enough_is_given_up() -> None:
    """One character is the least."""
    sent: list[int] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        sent.append(len(body["input"][0]))
        return refusal("the input is too long")

    with pytest.raises(ContextLengthError, match="1 characters"):
        await behind(handle, truncate=True).ainvoke("x" * 1000)
    assert len(sent) <= 11
    assert sent[-1] == 1


# Options


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"model": ""}, ValueError, "model must be the name"),
        ({"dimensions": 0}, ValueError, "dimensions must be 1 or more"),
        ({"dimensions": "3"}, TypeError, "dimensions must be a whole number"),
        ({"max_batch_size": 0}, ValueError, "max_batch_size must be 1 or more"),
        ({"max_batch_tokens": 0}, ValueError, "max_batch_tokens must be 1 or more"),
        ({"truncate": 0}, ValueError, "truncate must be 1 or more"),
        ({"linger": -1}, ValueError, "linger must be 0 seconds or more"),
        ({"encoding_format": "int8"}, ValueError, 'encoding_format must be "base64" or "float"'),
        ({"tokenizer": "x"}, ValueError, "tokenizer must be"),
        ({"server": "x"}, ValueError, "server must be one of"),
        ({"extra_body": {"input": 1}}, ValueError, "input cannot be set: the texts are the input"),
        ({"extra_body": {"encoding_format": None}}, ValueError, "encoding_format cannot be set"),
        ({"extra_body": {"x": object()}}, ValueError, "the option x cannot be sent as JSON"),
    ],
)
def test_embeddings_options_that_make_no_sense_are_errors(
    options: dict[str, Any], error: Any, said: str
) -> None:
    """At once."""
    with pytest.raises(error, match=said):
        OpenAIEmbeddings(**{"model": "m", "base_url": "http://x/v1", **options})


@pytest.mark.parametrize(
    "bound", [{"timeout": 1}, {"input": ["a"]}, {"dimensions": -1}, {"max_batch_size": 3}]
)
async def test_embeddings_an_option_that_cannot_be_bound_is_an_error(bound: dict[str, Any]) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match=next(iter(bound))):
        await model(mock()).bind(**bound).ainvoke("a")


def test_embeddings_openai_wants_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other servers do not insist on one."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(AuthenticationError):
        OpenAIEmbeddings("m")


async def test_embeddings_texts_are_no_text() -> None:
    """A string is a single one."""
    embeddings = model(mock())
    with pytest.raises(TypeError, match="embed_query"):
        await embeddings.aembed_array("text")
    with pytest.raises(TypeError):
        await embeddings.aembed_documents("text")
