from __future__ import annotations

import json
from typing import Any, get_args

import anyio
import httpx
import pytest

from batchrt.testing import MockProvider, ServerFamily
from tests import virtual
from tests.testing.direct import Answer, ask, embed, floats

pytestmark = pytest.mark.anyio

FAMILIES: tuple[ServerFamily, ...] = get_args(ServerFamily)
TEXT = "four"  # one token


@pytest.mark.parametrize(
    ("server", "most", "status", "words"),
    [
        ("openai", 2048, 400, "maximum length 2048, but got an array with length 2049"),
        ("azure", 2048, 400, "maximum length 2048"),
        ("tei", 32, 422, "batch size 33 > maximum allowed batch size 32"),
        ("infinity", 2048, 422, "List should have at most 2048 items"),
    ],
)
async def test_server_family_refuses_too_many_inputs(
    server: ServerFamily, most: int, status: int, words: str
) -> None:
    """With the status and the words of that server, which name the maximum."""
    provider = MockProvider(server=server, dimensions=2)
    assert embed(provider, [TEXT] * most).status == 200
    answer = embed(provider, [TEXT] * (most + 1))
    assert answer.status == status
    assert words in json.dumps(answer.document)


@pytest.mark.parametrize("server", ["llama-server", "llama-cpp-python", "vllm", "ollama"])
async def test_server_family_may_have_no_limit_of_inputs(server: ServerFamily) -> None:
    """One more than OpenAI's is accepted."""
    assert embed(MockProvider(server=server, dimensions=2), [TEXT] * 2049).status == 200


async def test_server_family_limits_tokens_by_input_and_by_request() -> None:
    """8,192 and 300,000 for OpenAI; both messages name the maximum and the requested number."""
    provider = MockProvider(dimensions=2)
    long = TEXT * 8192
    assert embed(provider, long).status == 200
    answer = embed(provider, ["a", long + "x"])
    assert answer.status == 400
    assert "maximum context length is 8192 tokens" in answer.document["error"]["message"]
    assert "8193" in answer.document["error"]["message"]
    assert embed(provider, [long] * 36 + [TEXT * 5088]).status == 200
    answer = embed(provider, [long] * 36 + [TEXT * 5089])
    assert answer.status == 400
    assert answer.document["error"] == {
        "message": "Requested 300001 tokens, max 300000 tokens per request",
        "type": "max_tokens_per_request",
        "param": None,
        "code": "max_tokens_per_request",
    }


async def test_server_family_counts_given_tokens_as_they_are() -> None:
    """Not as the characters that write them."""
    provider = MockProvider(max_input_tokens=3, dimensions=2)
    assert embed(provider, [[100_000, 100_001, 100_002]]).status == 200
    assert embed(provider, [[1, 2, 3, 4]]).status == 400


@pytest.mark.parametrize(
    ("server", "status", "words"),
    [
        ("openai", 400, "maximum context length is 2 tokens"),
        ("tei", 413, "must have less than 2 tokens. Given: 3"),
        ("infinity", 400, "maximum context length is 2 tokens"),
        ("llama-server", 500, "input (3 tokens) is too large to process. increase the physical batch size"),
        ("llama-cpp-python", 500, "Requested tokens (3) exceed context window of 2"),
        ("vllm", 400, "maximum context length is 2 tokens. However, you requested 3"),
        ("ollama", 400, "maximum context length is 2 tokens"),
    ],
)
async def test_server_family_limits_may_be_overridden(server: ServerFamily, status: int, words: str) -> None:
    """The refusal keeps the server's words."""
    provider = MockProvider(server=server, max_inputs=2, max_input_tokens=2, max_request_tokens=3)
    assert embed(provider, [TEXT]).status == 200
    answer = embed(provider, [TEXT, TEXT * 3])
    assert (answer.status, words in json.dumps(answer.document)) == (status, True)
    assert embed(provider, [TEXT] * 3).status in {400, 422}
    assert embed(provider, [TEXT * 2] * 2).status in {400, 413}


async def test_server_family_rejects_invalid_limits_and_names() -> None:
    """The constructor raises."""
    with pytest.raises(ValueError, match="max_inputs must be at least 1, not 0"):
        MockProvider(max_inputs=0)
    with pytest.raises(ValueError, match="server must be one of openai, azure, tei"):
        MockProvider(server="abacus")  # type: ignore[arg-type]


async def test_server_family_limits_are_per_provider() -> None:
    """Each provider has its own instance."""
    MockProvider(max_inputs=1)
    assert embed(MockProvider(dimensions=2), [TEXT, TEXT]).status == 200


async def test_server_family_errors_have_the_servers_shape() -> None:
    """Flat for TEI, FastAPI's for Infinity, with the status as code for llama-server and vLLM."""
    shapes: dict[ServerFamily, Answer] = {
        server: embed(MockProvider(server=server, max_inputs=1), ["a", "b"]) for server in FAMILIES
    }
    assert shapes["openai"].document["error"].keys() == {"message", "type", "param", "code"}
    assert shapes["tei"].document == {
        "message": "batch size 2 > maximum allowed batch size 1",
        "code": 422,
        "type": "Validation",
    }
    [problem] = shapes["infinity"].document["detail"]
    assert problem["input"] == ["a", "b"]
    assert shapes["llama-server"].document["error"].keys() == {"code", "message", "type"}
    assert shapes["vllm"].document["error"]["code"] == 400


@pytest.mark.parametrize("server", FAMILIES)
async def test_server_family_decides_on_empty_texts(server: ServerFamily) -> None:
    """Some refuse them, the others embed them."""
    answer = embed(MockProvider(server=server), ["a", ""])
    lenient = server in {"infinity", "llama-cpp-python", "vllm", "ollama"}
    assert (answer.status == 200) == lenient


@pytest.mark.parametrize("server", FAMILIES)
async def test_server_family_infinity_refuses_tokens(server: ServerFamily) -> None:
    """All others accept them."""
    answer = embed(MockProvider(server=server), [[1, 2], [3]])
    assert answer.status == (422 if server == "infinity" else 200)


async def test_server_family_infinity_bills_characters() -> None:
    """Not tokens."""
    assert embed(MockProvider(server="infinity"), ["four", "five!"]).document["usage"] == {
        "prompt_tokens": 9,
        "total_tokens": 9,
    }


async def test_server_family_llama_server_ignores_model_and_dimensions() -> None:
    """`vector_of` ignores them too."""
    provider = MockProvider(server="llama-server", dimensions=8)
    vectors = [
        embed(provider, "a").document["data"][0]["embedding"],
        embed(provider, "a", dimensions=3).document["data"][0]["embedding"],
        ask(provider, "/v1/embeddings", {"input": "a", "model": "x"}).document["data"][0]["embedding"],
        ask(provider, "/v1/embeddings", {"input": "a"}).document["data"][0]["embedding"],
        provider.vector_of("a", model="any", dimensions=5),
    ]
    assert all(vector == vectors[0] for vector in vectors)
    assert len(vectors[0]) == 8


async def test_server_family_llama_server_refuses_a_null_format() -> None:
    """Only there is null an error."""
    for server in FAMILIES:
        answer = embed(MockProvider(server=server), "a", encoding_format=None)
        assert answer.status == (400 if server == "llama-server" else 200), server


async def test_server_family_llama_cpp_python_ignores_base64() -> None:
    """It answers floats."""
    provider = MockProvider(server="llama-cpp-python")
    [entry] = embed(provider, "a", encoding_format="base64").document["data"]
    assert entry["embedding"] == provider.vector_of("a", model="m")


@pytest.mark.parametrize("server", sorted(set(FAMILIES) - {"llama-cpp-python"}))
async def test_server_family_others_support_base64(server: ServerFamily) -> None:
    """With the same numbers."""
    provider = MockProvider(server=server)
    [entry] = embed(provider, "a", encoding_format="base64").document["data"]
    assert isinstance(entry["embedding"], str)
    assert floats(entry["embedding"]) == provider.vector_of("a", model="m")


async def test_server_family_vllm_refuses_dimensions() -> None:
    """In its own words, which name no parameter."""
    answer = embed(MockProvider(server="vllm"), "a", dimensions=8)
    assert answer.status == 400
    assert "matryoshka" in answer.document["error"]["message"]


async def test_server_family_tei_refuses_bodies_above_two_megabytes() -> None:
    """In plain text, without the limit."""
    provider = MockProvider(server="tei", dimensions=2)
    body = json.dumps({"model": "m", "input": "x" * 1_999_900}).encode()
    assert len(body) < 2_000_000
    async with httpx.AsyncClient(transport=provider.transport(), base_url="http://mock/v1") as client:
        assert (await client.post("/embeddings", content=body)).status_code == 200
        response = await client.post("/embeddings", content=body + b" " * 100)
    assert response.status_code == 413
    assert response.headers["content-type"].startswith("text/plain")
    assert "2" not in response.text


async def while_busy(provider: MockProvider, held: int, then: int) -> httpx.Response:
    """Send `then` inputs while a request with `held` waits for its answer."""
    answers: list[httpx.Response] = []
    async with (
        httpx.AsyncClient(transport=provider.transport(), base_url="http://mock/v1", timeout=None) as client,
        anyio.create_task_group() as group,
    ):
        body: dict[str, Any] = {"model": "m", "input": ["a"] * held}
        group.start_soon(lambda: client.post("/embeddings", json=body))
        await provider.log.wait_for(lambda seen: seen.in_flight == 1)
        answers.append(await client.post("/embeddings", json={"model": "m", "input": ["a"] * then}))
    return answers[0]


def run(*arguments: Any) -> httpx.Response:
    response: httpx.Response = virtual.run(*arguments)
    return response


def test_server_family_tei_counts_inputs_in_flight() -> None:
    """429 without a wait at the limit; the permits are returned afterwards."""
    provider = MockProvider(server="tei", latency=5, max_in_flight=40)
    assert run(while_busy, provider, 32, 8).status_code == 200
    response = run(while_busy, provider, 32, 9)
    assert response.status_code == 429
    assert response.json() == {"message": "Model is overloaded", "code": 429, "type": "Overloaded"}
    assert "retry-after" not in response.headers
    assert run(while_busy, provider, 1, 32).status_code == 200


def test_server_family_ollama_counts_requests_in_flight() -> None:
    """503 at the limit, for any number of inputs."""
    full = MockProvider(server="ollama", latency=5, max_in_flight=1)
    response = run(while_busy, full, 1, 1)
    assert response.status_code == 503
    assert "maximum pending requests exceeded" in response.json()["error"]["message"]
    assert run(while_busy, MockProvider(server="ollama", latency=5), 500, 500).status_code == 200


def test_server_family_accepts_any_max_in_flight() -> None:
    """Any server refuses above it."""
    assert run(while_busy, MockProvider(latency=5, max_in_flight=1), 1, 1).status_code == 503
    assert run(while_busy, MockProvider(latency=5, max_in_flight=2), 1, 1).status_code == 200
