from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from batchrt.testing import Fault, FaultLike, FaultPlan, MockProvider, MockServer

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "system", "content": "Answer."},
    {"role": "user", "content": "hi"},
]


class City(BaseModel):
    name: str
    inhabitants: int
    districts: list[str]


@pytest.fixture
def mock_provider() -> MockProvider:
    return MockProvider(api_key="right", models=["mock"])


def sdk(server: MockServer, key: str = "right") -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0)


def test_openai_sdk_sync_gets_its_answer(mock_server: MockServer) -> None:
    """Content, usage and request id come through the SDK's own types."""
    with sdk(mock_server) as client:
        answer = client.chat.completions.create(model="mock", messages=MESSAGES)
        assert [model.id for model in client.models.list()] == ["mock"]
    expected = mock_server.provider.answer_to([dict(message) for message in MESSAGES])
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


@pytest.mark.anyio
async def test_openai_sdk_async_gets_its_answer(mock_server: MockServer) -> None:
    """On every event loop that the SDK supports."""
    async with openai.AsyncOpenAI(base_url=mock_server.base_url, api_key="right") as client:
        answer = await client.chat.completions.create(model="mock", messages=MESSAGES, n=2)
    expected = [
        mock_server.provider.answer_to([dict(message) for message in MESSAGES], index=index)
        for index in range(2)
    ]
    assert [choice.message.content for choice in answer.choices] == expected


@pytest.mark.anyio
async def test_openai_sdk_async_works_in_process(mock_provider: MockProvider) -> None:
    """Through the transport, without a socket."""
    # Any: the SDK names its client library by another name from one release to the next.
    http_client: Any = httpx.AsyncClient(transport=mock_provider.transport())
    async with openai.AsyncOpenAI(
        base_url="http://mock/v1", api_key="right", http_client=http_client
    ) as client:
        answer = await client.chat.completions.create(model="mock", messages=MESSAGES)
    assert answer.choices[0].message.content


def test_openai_sdk_parses_structured_output(mock_server: MockServer) -> None:
    """The SDK's strict schema of a pydantic model is one that the mock can fill."""
    with sdk(mock_server) as client:
        answer = client.chat.completions.parse(model="mock", messages=MESSAGES, response_format=City)
    assert isinstance(answer.choices[0].message.parsed, City)


def test_openai_sdk_gets_its_embeddings(mock_server: MockServer) -> None:
    """In base64, its default, and in floats."""
    texts = ["a", "b"]
    expected = [mock_server.provider.vector_of(text, dimensions=7) for text in texts]
    with sdk(mock_server) as client:
        for options in ({}, {"encoding_format": "float"}):
            made = client.embeddings.create(model="mock", input=texts, dimensions=7, extra_body=options)
            assert [item.embedding for item in made.data] == expected
            assert made.usage.total_tokens == 2


def test_openai_sdk_gets_its_completions(mock_server: MockServer) -> None:
    """A list of prompts, two choices each."""
    with sdk(mock_server) as client:
        made = client.completions.create(model="mock", prompt=["a", "b"], n=2)
    expected = [
        mock_server.provider.completion_to(prompt, index=index) for prompt in "ab" for index in (0, 1)
    ]
    assert [choice.text for choice in made.choices] == expected


def test_openai_sdk_raises_authentication_error_for_a_wrong_key(mock_server: MockServer) -> None:
    """401."""
    with sdk(mock_server, key="wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(model="mock", messages=MESSAGES)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id is not None


def test_openai_sdk_raises_not_found_error_for_an_unknown_model(mock_server: MockServer) -> None:
    """404 with the code and the parameter."""
    with sdk(mock_server) as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="other", messages=MESSAGES)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.RATE_LIMIT_SECONDS, openai.RateLimitError),
        (Fault.INSUFFICIENT_QUOTA, openai.RateLimitError),
        (Fault.CONTEXT_LENGTH, openai.BadRequestError),
        (Fault.CONFLICT, openai.ConflictError),
        (Fault.BAD_GATEWAY, openai.InternalServerError),
        (Fault.DROP_BEFORE_RESPONSE, openai.APIConnectionError),
        (Fault.DROP_MID_BODY, openai.APIConnectionError),
    ],
)
def test_openai_sdk_maps_faults_to_its_errors(fault: FaultLike, error: type[Exception]) -> None:
    """Each kind as the real API's."""
    provider = MockProvider(faults=FaultPlan(script=[fault]))
    with provider.serve() as server, sdk(server) as client, pytest.raises(error) as caught:
        client.chat.completions.create(model="mock", messages=MESSAGES)
    assert type(caught.value) is error


def test_openai_sdk_waits_for_retry_after_ms() -> None:
    """And retries with the same body."""
    provider = MockProvider(faults=FaultPlan(script=[Fault.RATE_LIMIT_MS(seconds=0.001)]))
    with (
        provider.serve() as server,
        openai.OpenAI(base_url=server.base_url, api_key="k", max_retries=1) as client,
    ):
        client.chat.completions.create(model="mock", messages=MESSAGES)
    assert [record.attempt for record in provider.log.records()] == [1, 2]
    assert provider.log.snapshot().by_status == {200: 1, 429: 1}


def test_openai_sdk_streams(mock_server: MockServer) -> None:
    """The SDK understands the mock's streams: texts, finish reason, usage."""
    with sdk(mock_server) as client:
        stream = client.chat.completions.create(
            model="mock", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        whole = client.chat.completions.create(model="mock", messages=MESSAGES)
    deltas = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(deltas) == whole.choices[0].message.content
    assert len(deltas) > 3
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage
