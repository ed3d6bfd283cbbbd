"""OpenAIEmbeddings and servers: their limits, their refusals, and those that are not quite OpenAI."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest

from batchrt.errors import (
    AuthenticationError,
    BadRequestError,
    MalformedResponseError,
    RateLimitError,
    ServerError,
)
from batchrt.providers.embeddings.model import OpenAIEmbeddings
from batchrt.testing import Fault, FaultPlan
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


# What they take


@pytest.mark.parametrize(
    ("server", "most"), [("openai", 2048), ("azure", 2048), ("tei", 32), ("infinity", 2048), ("vllm", 2048)]
)
async def test_embedding_requests_a_known_server_is_never_sent_too_much(server: Any, most: int) -> None:
    """It refuses nothing."""
    provider = mock(server=server)
    texts = words(2500)
    assert await model(provider, server=server).abatch(texts, {"max_concurrency": 4}) == vectors(
        provider, texts
    )
    log = provider.log.snapshot()
    assert log.by_status == {200: math.ceil(2500 / most)}
    assert log.most_items == most


@pytest.mark.parametrize("server", ["openai", "azure", "tei", "infinity"])
async def test_embedding_requests_a_maximum_that_is_not_known_is_learned(server: Any) -> None:
    """From the refusals of what is under way, and remembered for the next run."""
    provider = mock(server=server, max_inputs=10)
    embeddings = model(provider, max_batch_size=50)
    texts = words(200)
    assert await embeddings.abatch(texts, {"max_concurrency": 2}) == vectors(provider, texts)
    log = provider.log.snapshot()
    assert log.requests - log.by_status[200] <= 2
    assert log.by_status[200] == 20
    provider.reset()
    await embeddings.abatch(texts)
    assert provider.log.snapshot().by_status == {200: 20}


@pytest.mark.parametrize("server", ["openai", "tei"])
async def test_embedding_requests_a_maximum_of_tokens_is_learned(server: Any) -> None:
    """Whatever the estimate said."""
    provider = mock(server=server, max_request_tokens=300, max_inputs=100)
    embeddings = model(provider, max_batch_size=100)
    texts = words(400)
    assert await embeddings.abatch(texts, {"max_concurrency": 2}) == vectors(provider, texts)
    log = provider.log.snapshot()
    assert log.requests - log.by_status[200] <= 4
    assert log.by_status[200] < 12


async def test_embedding_requests_a_limit_of_tokens_can_be_said() -> None:
    """And is kept, by the estimate."""
    provider = mock(max_request_tokens=300)
    texts = words(400)
    assert await model(provider, max_batch_tokens=300).abatch(texts) == vectors(provider, texts)
    assert provider.log.snapshot().by_status.keys() == {200}


async def test_embedding_requests_a_refusal_without_a_number_halves_the_list() -> None:
    """Only what is too large is refused, in the end nothing."""

    def handle(body: dict[str, Any]) -> httpx.Response:
        if len(body["input"]) > 6:
            return httpx.Response(413, text="length limit exceeded")
        return answer(body["input"])

    assert await behind(handle).abatch(words(20)) == [[len(text), 1.0] for text in words(20)]


async def test_embedding_requests_a_guilty_text_is_found() -> None:
    """The others have their vectors."""
    provider = mock(reject=lambda text: text in {"text number 3", "text number 77"})
    got: list[Any] = await model(provider).abatch(words(100), return_exceptions=True)
    for index, (vector, right) in enumerate(zip(got, vectors(provider, words(100)), strict=True)):
        if index in {3, 77}:
            assert isinstance(vector, BadRequestError)
        else:
            assert vector == right


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (refusal("no such key", 401), AuthenticationError),
        (refusal("no such model", 404), BadRequestError),
        (refusal("no such model: it must be one of 3 at most", 400, param="model"), BadRequestError),
        (refusal("slow down", 429), RateLimitError),
        (refusal("busy", 409), ServerError),
    ],
)
async def test_embedding_requests_an_error_that_is_no_texts_fault_is_not_split(
    response: httpx.Response, error: Any
) -> None:
    """One request, and all have the error."""
    sent: list[int] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        sent.append(len(body["input"]))
        return response

    got: list[Any] = await behind(handle, max_retries=0).abatch(words(30), return_exceptions=True)
    assert all(isinstance(one, error) for one in got)
    assert sent == [30]


async def test_embedding_requests_an_injected_400_is_the_texts_or_the_options_fault() -> None:
    """A list that is too long is halved; an option that is refused is refused for each text, once."""
    for fault, requests, errors in ((Fault.CONTEXT_LENGTH, 3, 0), (Fault.BAD_PARAMETER, 1, 100)):
        provider = mock(faults=FaultPlan(script=[fault]))
        got: list[Any] = await model(provider).abatch(words(100), return_exceptions=True)
        assert sum(isinstance(one, BadRequestError) for one in got) == errors
        assert provider.log.snapshot().requests == requests


@pytest.mark.parametrize(
    "response", [refusal("broken", 500), refusal("no"), httpx.Response(200, text="<html>")]
)
async def test_embedding_requests_an_outage_does_not_cost_a_request_a_text(response: httpx.Response) -> None:
    """The search for a guilty text is given up where nothing but failures come of it."""
    sent: list[int] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        sent.append(len(body["input"]))
        return response

    got: list[Any] = await behind(handle, max_retries=0).abatch(words(1000), return_exceptions=True)
    assert all(isinstance(one, BadRequestError | ServerError | MalformedResponseError) for one in got)
    assert len(sent) < 50


async def test_embedding_requests_nothing_shows_the_key_or_the_input() -> None:
    """Infinity says the whole input back; errors are short, and reprs show no secret."""

    def handle(_body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(422, json={"detail": [{"msg": "no, sk-hidden", "input": "private " * 500}]})

    embeddings = behind(handle)
    with pytest.raises(BadRequestError) as caught:
        await embeddings.ainvoke("private")
    assert len(str(caught.value)) < 600
    assert "private" not in str(caught.value)
    assert "sk-hidden" not in f"{caught.value!r} {embeddings!r} {vars(embeddings)!r}"


# Servers that are not quite OpenAI


@pytest.mark.parametrize(
    "server", ["openai", "azure", "tei", "infinity", "llama-server", "llama-cpp-python", "ollama"]
)
@pytest.mark.parametrize("known", [True, False])
async def test_embedding_requests_every_kind_of_server_gives_the_right_vectors(
    server: Any, known: bool
) -> None:
    """Whether it is known for what it is or not."""
    provider = mock(server=server)
    embeddings = model(provider, server=server) if known else model(provider)
    texts = words(100)
    assert await embeddings.abatch(texts) == vectors(provider, texts)


MENDED = [
    Fault.SHUFFLED_INDEX,
    Fault.MISSING_INDEX,
    Fault.TEXT_INDEX,
    Fault.REPEATED_INDEX,
    Fault.MERGED_LIST,
    Fault.FAILED_LIST,
    Fault.REJECTED_LIST,
    Fault.PARTIAL_USAGE,
    Fault.MISSING_USAGE,
    Fault.IGNORED_BASE64,
    Fault.REJECTED_BASE64,
]
HOPELESS = [
    Fault.SHORT_LIST,
    Fault.LONG_LIST,
    Fault.NESTED_VECTORS,
    Fault.NULL_VECTOR,
    Fault.NULL_IN_VECTOR,
    Fault.NAN_IN_VECTOR,
    Fault.TORN_BASE64,
]


@pytest.mark.parametrize("fault", [*MENDED, Fault.WRONG_WIDTH, *HOPELESS], ids=lambda fault: fault.name)
async def test_embedding_requests_a_defect_that_passes_leaves_no_trace(fault: Fault) -> None:
    """The first answer has it: every vector is right in the end."""
    provider = mock(faults=FaultPlan(script=[fault]))
    assert await model(provider, max_retries=0).abatch(words(50)) == vectors(provider, words(50))


@pytest.mark.parametrize("fault", MENDED, ids=lambda fault: fault.name)
async def test_embedding_requests_a_defect_that_stays_is_lived_with(fault: Fault) -> None:
    """Every answer has it: every vector is right."""
    provider = mock(faults=FaultPlan(rates={fault: 1.0}))
    assert await model(provider, max_retries=0).abatch(words(50)) == vectors(provider, words(50))


@pytest.mark.parametrize("fault", HOPELESS, ids=lambda fault: fault.name)
async def test_embedding_requests_a_defect_that_nothing_can_be_done_about_is_a_clear_error(
    fault: Fault,
) -> None:
    """Every answer has it, and what it has it in is an error of that text; no vector is wrong."""
    provider = mock(faults=FaultPlan(rates={fault: 1.0}))
    got: list[Any] = await model(provider, max_retries=0).abatch(words(50), return_exceptions=True)
    errors = [vector for vector in got if isinstance(vector, Exception)]
    assert errors
    assert all(isinstance(error, MalformedResponseError) for error in errors)
    for vector, right in zip(got, vectors(provider, words(50)), strict=True):
        assert isinstance(vector, Exception) or vector == right


async def test_embedding_requests_a_vector_of_another_width_is_that_texts_error() -> None:
    """The others are as good as ever."""

    def handle(body: dict[str, Any]) -> httpx.Response:
        data = [
            {"index": index, "embedding": [1.0] * (3 if text == "text number 4" else 2)}
            for index, text in enumerate(body["input"])
        ]
        return httpx.Response(200, json={"data": data})

    got: list[Any] = await behind(handle, max_batch_size=3).abatch(
        words(9), {"max_concurrency": 1}, return_exceptions=True
    )
    assert isinstance(got[4], MalformedResponseError)
    assert "has 3 numbers, and others have 2" in str(got[4])
    assert [*got[:4], *got[5:]] == [[1.0, 1.0]] * 8


async def test_embedding_requests_a_server_that_merges_lists_is_asked_one_by_one() -> None:
    """From then on: it is remembered."""
    provider = mock(faults=FaultPlan(rates={Fault.MERGED_LIST: 1.0}))
    embeddings = model(provider)
    await embeddings.abatch(words(10))
    assert provider.log.snapshot().requests == 11
    provider.reset()
    await embeddings.abatch(words(10))
    assert provider.log.snapshot().requests == 10


@pytest.mark.parametrize("fault", [Fault.REJECTED_BASE64, Fault.IGNORED_BASE64])
async def test_embedding_requests_a_server_without_base64_is_asked_for_floats(fault: Fault) -> None:
    """From then on: it is remembered."""
    formats: list[str] = []
    provider = mock(faults=FaultPlan(rates={fault: 1.0}))
    inner = provider.transport()

    class Watching(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            formats.append(json.loads(request.content)["encoding_format"])
            return await inner.handle_async_request(request)

    embeddings = OpenAIEmbeddings("m", base_url="http://mock/v1", api_key="k", transport=Watching())
    for _ in range(2):
        assert await embeddings.abatch(words(5)) == vectors(provider, words(5))
    assert formats == ["base64", "float"] + ["float"] * (fault is Fault.REJECTED_BASE64)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "Unrecognized request argument supplied: encoding_format"}),
        (422, {"message": "Extra inputs are not permitted", "param": "encoding_format"}),
        (400, {"message": "encoding_format is not supported", "param": "None", "code": "400"}),
        (422, [{"type": "extra_forbidden", "loc": ["body", "encoding_format"], "msg": "Extra inputs"}]),
        (400, {"message": "unknown field `encoding_format`, expected one of `model`, `input`"}),
    ],
)
@pytest.mark.parametrize("texts", [1, 3])
async def test_embedding_requests_servers_that_refuse_the_encoding_format_are_served(
    status: int, error: Any, texts: int
) -> None:
    """It is left out, which is remembered; what refuses it is asked twice more at the most."""
    seen: list[Any] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        seen.append(body.get("encoding_format"))
        if "encoding_format" in body:
            return httpx.Response(status, json={"detail" if isinstance(error, list) else "error": error})
        given = body["input"]
        return answer([given] if isinstance(given, str) else given)

    embeddings = behind(handle)
    for _ in range(2):
        assert len(await embeddings.abatch([f"text {i}" for i in range(texts)])) == texts
    assert seen == ["base64", "float", None, None]


async def test_embedding_requests_floats_can_be_asked_for() -> None:
    """From the start."""
    seen: list[str] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        seen.append(body["encoding_format"])
        return answer(body["input"])

    await behind(handle, encoding_format="float").ainvoke("a")
    assert seen == ["float"]


async def test_embedding_requests_a_server_that_refuses_dimensions_is_said_to() -> None:
    """The parameter is named, and no text is looked for."""
    provider = mock(server="vllm")
    got: list[Any] = await model(provider, dimensions=3).abatch(words(9), return_exceptions=True)
    assert all(isinstance(error, BadRequestError) and error.param == "dimensions" for error in got)
    assert "leave dimensions out" in str(got[0])
    assert provider.log.snapshot().requests == 1


async def test_embedding_requests_a_server_that_ignores_dimensions_is_said_to() -> None:
    """What to do, too; and it is not asked twice."""
    provider = mock(server="llama-server")
    got: list[Any] = await model(provider, dimensions=3).abatch(words(9), return_exceptions=True)
    assert all(isinstance(error, MalformedResponseError) for error in got)
    assert f"has {WIDTH} numbers, and dimensions=3 was asked for" in str(got[0])
    assert "cut the vectors" in str(got[0])
    assert provider.log.snapshot().requests == 1


async def test_embedding_requests_a_vector_for_each_token_is_no_vector_for_a_text() -> None:
    """What the server needs is said."""
    provider = mock(server="llama-cpp-python", faults=FaultPlan(rates={Fault.NESTED_VECTORS: 1.0}))
    with pytest.raises(MalformedResponseError, match="one for each token: the server does not pool them"):
        await model(provider).ainvoke("two words")


@pytest.mark.parametrize("server", ["ollama", "tei"])
def test_embedding_requests_a_server_that_is_full_is_asked_again(server: Any) -> None:
    """Ollama's 503, TEI's 429 without a time: the whole list, after a while."""
    provider = mock(server=server, faults=FaultPlan(script=[Fault.OVERLOADED, Fault.RATE_LIMIT_BARE]))

    got, seconds = on_mock_clock(lambda: model(provider, server=server).abatch(words(3)))
    assert got == vectors(provider, words(3))
    assert seconds > 1
    assert provider.log.snapshot().requests == 3


@pytest.mark.parametrize(
    "index",
    [lambda i: i // 2, lambda i: i + 7, lambda i: -i, lambda i: 2 * i, lambda i: f"text-{i}", lambda i: [i]],
    ids=["each twice", "from 7", "negative", "every second", "texts", "lists"],
)
async def test_embedding_requests_a_server_whose_order_cannot_be_told_is_asked_one_by_one(index: Any) -> None:
    """From the second list on; else every text would be paid for at every length down to one."""
    paid: list[int] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        paid.append(len(body["input"]))
        data = [
            {"index": index(i), "embedding": [len(text), 1.0]}
            for i, text in enumerate(body["input"], start=1)
        ]
        return httpx.Response(200, json={"data": data})

    embeddings = behind(handle)
    assert await embeddings.abatch(words(100)) == [[float(len(text)), 1.0] for text in words(100)]
    assert paid[:2] == [100, 50]
    assert sum(paid) == 100 + 50 + 100
    paid.clear()
    await embeddings.abatch(words(10))
    assert paid == [1] * 10


async def test_embedding_requests_a_disorder_among_lists_that_are_in_order_is_an_accident() -> None:
    """Lists go on; the one is halved."""
    sent: list[int] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        sent.append(len(body["input"]))
        wrong = len(sent) in {2, 5}
        data = [
            {"index": 0 if wrong and i == 2 else i, "embedding": [1.0]} for i in range(len(body["input"]))
        ]
        return httpx.Response(200, json={"data": data})

    embeddings = behind(handle, max_batch_size=8)
    assert await embeddings.abatch(words(40), {"max_concurrency": 1}) == [[1.0]] * 40
    assert sum(sent) == 40 + 2 * 8
    assert sent.count(1) == 0


async def test_embedding_requests_lists_that_litellm_calls_too_long_are_halved() -> None:
    """Its `"param": "None"` blames nothing."""
    lengths: list[int] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        lengths.append(len(texts))
        if len(texts) > 2:
            message = "litellm.ContextWindowExceededError: litellm.BadRequestError: too much"
            return refusal(message, type="None", param="None", code="400")
        return answer(texts)

    assert len(await behind(handle).abatch([f"text {i}" for i in range(8)])) == 8
    assert lengths == [8, 4, 2, 2, 4, 2, 2]
