from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest
import trio
import trio.testing

from batchrt.testing import Fault, FaultPlan, MockProvider
from tests.testing.direct import ask, embed, floats

pytestmark = pytest.mark.anyio


async def test_embeddings_answer_has_all_fields_of_the_api() -> None:
    """Shape, echo of the model, usage in tokens; without dimensions the model's own width."""
    provider = MockProvider()
    status, document, _ = embed(provider, ["a text", "b"])
    assert status == 200
    assert document == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": provider.vector_of("a text", model="m")},
            {"object": "embedding", "index": 1, "embedding": provider.vector_of("b", model="m")},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert len(document["data"][0]["embedding"]) == 1536


@pytest.mark.parametrize("encoding", ["float", "base64", None])
@pytest.mark.parametrize("width", [1, 5, 96, 100, 1536])
async def test_embeddings_in_both_encodings_equal_vector_of(encoding: str | None, width: int) -> None:
    """To the last bit, at any width."""
    texts = ["", 'ä " \\ \n 漢字 😀', "x" * 5000]
    # One that takes an empty text.
    provider = MockProvider(server="infinity", dimensions=width)
    _, document, _ = embed(provider, texts, encoding_format=encoding)
    vectors = [floats(entry["embedding"]) for entry in document["data"]]
    assert vectors == [provider.vector_of(text, model="m") for text in texts]
    assert isinstance(document["data"][0]["embedding"], str) == (encoding == "base64")
    assert {len(vector) for vector in vectors} == {width}


async def test_embeddings_have_the_requested_dimensions() -> None:
    """Up to the model's own; the vector is another one."""
    provider = MockProvider(dimensions=64)
    _, document, _ = embed(provider, "a", dimensions=32)
    assert document["data"][0]["embedding"] == provider.vector_of("a", model="m", dimensions=32)
    assert len(document["data"][0]["embedding"]) == 32
    assert embed(provider, "a", dimensions=65).status == 400
    with pytest.raises(ValueError, match="dimensions must be at least 1"):
        MockProvider(dimensions=0)


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("text", ["text"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
async def test_embeddings_accept_every_form_of_input(given: Any, inputs: list[Any]) -> None:
    """A text, texts, the tokens of a text, the tokens of many; the log counts inputs."""
    provider = MockProvider()
    _, document, _ = embed(provider, given)
    vectors = [entry["embedding"] for entry in document["data"]]
    assert vectors == [provider.vector_of(value, model="m") for value in inputs]
    assert provider.log.records()[0].items == len(inputs)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "a"}, "model"),
        ({"model": "m"}, "input"),
        ({"model": "m", "input": []}, "input"),
        ({"model": "m", "input": 5}, "input"),
        ({"model": "m", "input": [True]}, "input"),
        ({"model": "m", "input": ["a", [1]]}, "input"),
        ({"model": "m", "input": ["a", ""]}, "input"),
        ({"model": "m", "input": [[]]}, "input"),
        ({"model": "m", "input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"model": "m", "input": "a", "dimensions": 0}, "dimensions"),
        ({"model": "m", "input": "a", "dimensions": 1.5}, "dimensions"),
        ({"model": "text-embedding-ada-002", "input": "a", "dimensions": 5}, "dimensions"),
    ],
)
async def test_embeddings_reject_invalid_requests(body: Any, param: str) -> None:
    """400 in OpenAI's shape, with the parameter."""
    status, document, _ = ask(MockProvider(), "/v1/embeddings", body)
    assert (status, document["error"]["param"]) == (400, param)


async def test_embeddings_requests_and_inputs_are_in_the_log() -> None:
    """Over HTTP too: the number of requests and inputs, the longest list, and each record."""
    provider = MockProvider(dimensions=3)
    sizes = [2048, 2048, 2048, 2048, 1808]
    for size in sizes:
        assert embed(provider, ["text"] * size).status == 200
    seen = provider.log.snapshot()
    assert (seen.requests, seen.items, seen.most_items, seen.items_in_flight) == (5, 10_000, 2048, 0)
    async with httpx.AsyncClient(transport=provider.transport(), base_url="http://mock") as client:
        log = (await client.get("/_mock/log?records=9")).json()
    assert (log["requests"], log["items"], log["most_items"]) == (5, 10_000, 2048)
    assert [record["items"] for record in log["records"]] == sizes


async def test_embeddings_inputs_of_failed_requests_are_counted() -> None:
    """Refused ones and those that met a fault."""
    provider = MockProvider(max_inputs=2, faults=FaultPlan(script=[Fault.SERVER_ERROR]))
    assert embed(provider, ["a"] * 3).status == 400
    assert embed(provider, ["a"] * 2).status == 500
    assert [record.items for record in provider.log.records()] == [3, 2]


async def test_embeddings_rejected_input_fails_the_whole_request() -> None:
    """The error does not tell which input; tokens are not passed to `reject`."""
    provider = MockProvider(reject=lambda text: text == "bad apple")
    assert embed(provider, ["a", "b"]).status == 200
    assert embed(provider, [[1, 2]]).status == 200
    status, document, _ = embed(provider, ["a", "bad apple", "b"])
    assert status == 400
    assert "apple" not in json.dumps(document)


async def test_embeddings_latency_may_grow_with_the_list() -> None:
    """A fixed part, and one for each input."""
    provider = MockProvider(latency=1.0, latency_per_input=0.25)
    assert embed(provider, ["a", "b", "c"]).delay == 1.75
    with pytest.raises(ValueError, match="latency_per_input must be seconds >= 0"):
        MockProvider(latency_per_input=-1)


def test_embeddings_in_flight_are_counted_with_their_inputs() -> None:
    """The peak is of requests; the inputs are those of all of them."""
    provider = MockProvider(latency_per_input=10)

    async def main() -> None:
        async with (
            httpx.AsyncClient(transport=provider.transport(), timeout=None) as client,
            anyio.create_task_group() as group,
        ):
            for count in (2, 3):
                body = {"model": "m", "input": ["a"] * count}
                group.start_soon(lambda body: client.post("http://mock/v1/embeddings", json=body), body)
            seen = await provider.log.wait_for(lambda seen: seen.in_flight == 2)
            assert seen.items_in_flight == 5
            await anyio.sleep(25)
            later = provider.log.snapshot()
            assert (later.items_in_flight, later.peak_in_flight) == (3, 2)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert provider.log.snapshot().items_in_flight == 0


async def test_embeddings_unknown_model_is_not_found() -> None:
    """If models are named."""
    assert embed(MockProvider(models=["other"]), "a").status == 404
