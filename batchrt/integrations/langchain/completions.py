"""Chat completions behind openai's client interface: langchain-openai's requests, sent by our client.

A chat model of langchain-openai builds its requests and reads its answers itself, and needs of openai's
library only `client.with_raw_response.create(**payload)` and `.parse(**payload)`. These are that part of
the interface; everything else (the Responses API, streams of parsed answers) goes to openai's own client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import openai
from openai.types.chat import ChatCompletion, ParsedChatCompletion
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from batchrt.errors import BadRequestError, ProviderError
from batchrt.integrations.langchain.completion_chunks import AsyncChunks, SyncChunks
from batchrt.integrations.langchain.errors import Translate, raise_as
from batchrt.messages import AIMessage, AIMessageChunk, Usage
from batchrt.providers.chat.chat_chunks import ChatChunks
from batchrt.providers.choices import first_message
from batchrt.providers.http.client import Client
from batchrt.providers.http.endpoint import Endpoint
from batchrt.providers.http.response import Reply
from batchrt.providers.request_body import most_tokens
from batchrt.providers.response_body import read_answer, read_usage
from batchrt.providers.stream_request import StreamUsage, producer
from batchrt.runnables.base import Runnable
from batchrt.runtime.clock import Clock
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["Answer", "AsyncRawCompletions", "ChatRequests", "clients", "completion_of", "wire_of"]

_PATH: Final = "/chat/completions"
_OF_THE_SDK: Final = ("extra_headers", "extra_query", "timeout")
"""Arguments of a call of openai's library that are for one request; our client has them for all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold a reply: the message as we read it, the JSON as it came, and the headers."""

    message: AIMessage
    data: dict[str, Any]
    headers: Mapping[str, str]

    @property
    def usage(self) -> Usage | None:
        """The tokens billed."""
        return self.message.usage

    @property
    def request_id(self) -> str | None:
        """The provider's id of the exchange."""
        return self.message.request_id


class ChatRequests(Runnable[dict[str, Any], Answer]):
    """Send payloads, the members of a request's body, to `/chat/completions`."""

    def __init__(self, client: Client) -> None:
        self.client: Client = client
        self._usage = StreamUsage(wanted=True)
        self._endpoints: dict[tuple[str, float | None], Endpoint] = {}

    def _takes(self, keyword: str) -> bool:  # noqa: ARG002  the payload has everything
        return False

    def _build(self, kwargs: Mapping[str, Any]) -> Step:  # noqa: ARG002  there are none
        async def call(payload: dict[str, Any], strand: Strand) -> Answer:
            body = _body(payload)
            return await self._endpoint(payload).call(body, self._read, strand)

        def produce(payload: dict[str, Any], strand: Strand) -> AsyncIterator[AIMessageChunk]:
            return producer(self._endpoint(payload), self._usage, self._streamed, self._chunks)(
                payload, strand
            )

        return Step(call, produce=produce)

    def _streamed(self, payload: Mapping[str, Any], asks_usage: bool) -> bytes:  # noqa: FBT001
        return _body(self._usage.fields(payload, usage=asks_usage))

    def _chunks(self, head: Reply, clock: Clock) -> ChatChunks:
        return ChatChunks(head, self.client.secrets, clock.wall)

    def _endpoint(self, payload: Mapping[str, Any]) -> Endpoint:
        key = (str(payload.get("model")), most_tokens(payload))
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            endpoint = self._endpoints[key] = self.client.endpoint(_PATH, *key)
        return endpoint

    def _read(self, reply: Reply, clock: Clock) -> Answer:
        def read(data: dict[str, Any]) -> Answer:
            usage = read_usage(data.get("usage"), data.get("service_tier"))
            return Answer(first_message(data, reply, usage), data, cast("Mapping[str, str]", reply.headers))

        return read_answer(reply, self.client.secrets, clock.wall, read)


def _body(payload: Mapping[str, Any]) -> bytes:
    try:
        return to_json(payload)
    except (PydanticSerializationError, UnicodeError) as error:
        raise BadRequestError(f"the request cannot be sent as JSON: {error}", param="messages") from None


def wire_of(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of the body for the arguments of a call of openai's library."""
    body = {"stream": False, **payload}
    for name in _OF_THE_SDK:
        if body.pop(name, None) is not None:
            raise ValueError(f"{name} belongs to the model as a whole: it cannot be bound to a call")
    if isinstance(schema := body.get("response_format"), type):
        body["response_format"] = _response_format(schema)
    extra = body.pop("extra_body", None) or {}
    return {**body, **extra}


def _response_format(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the response format for a model class, with openai's own rewriting of its schema."""
    function: Any = openai.pydantic_function_tool(schema)["function"]
    described = {"name": schema.__name__, "schema": function["parameters"], "strict": True}
    return {"type": "json_schema", "json_schema": described}


class RawResponse:
    """An answer as openai's `with_raw_response` returns it: `headers`, and `parse()` for the object."""

    def __init__(self, answer: Answer, parsed: ChatCompletion) -> None:
        self.headers: Mapping[str, str] = answer.headers
        self._parsed = parsed

    def parse(self) -> ChatCompletion:
        """Return the completion."""
        return self._parsed


def completion_of(answer: Answer, payload: Mapping[str, Any]) -> ChatCompletion:
    """Return the completion; if the request had a `response_format`, each message has `parsed`.

    Raises:
        openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError: the answer was cut off.
        pydantic.ValidationError: it does not fit.
    """
    if "response_format" not in payload:
        return ChatCompletion.construct(**answer.data)
    schema = payload["response_format"]
    completion: Any = ParsedChatCompletion.construct(**answer.data)
    for choice in completion.choices:
        if choice.finish_reason == "length":
            raise openai.LengthFinishReasonError(completion=completion)
        if choice.finish_reason == "content_filter":
            raise openai.ContentFilterFinishReasonError
        message = choice.message
        fits = isinstance(schema, type) and message.content and not message.refusal
        message.parsed = schema.model_validate_json(message.content) if fits else None
    return completion  # type: ignore[no-any-return]


class _RawCompletions:
    """Be openai's `completions.with_raw_response`, from async or from sync code."""

    def __init__(self, requests: ChatRequests, translate: Translate) -> None:
        self.requests: ChatRequests = requests
        self.translate: Translate = translate


class AsyncRawCompletions(_RawCompletions):
    """Be openai's `AsyncOpenAI().chat.completions.with_raw_response`."""

    async def create(self, **payload: Any) -> RawResponse:
        """Send a request and return the reply."""
        answer = await self._answer(payload)
        return RawResponse(answer, completion_of(answer, payload))

    async def parse(self, **payload: Any) -> RawResponse:
        """Send a request with a `response_format`, and parse the answer by it."""
        return await self.create(**payload)

    async def _answer(self, payload: Mapping[str, Any]) -> Answer:
        try:
            return await self.requests.ainvoke(wire_of(payload))
        except ProviderError as error:
            raise_as(self.translate(error), error)


class RawCompletions(_RawCompletions):
    """Be openai's `OpenAI().chat.completions.with_raw_response`."""

    def create(self, **payload: Any) -> RawResponse:
        """Send a request and return the reply."""
        answer = self._answer(payload)
        return RawResponse(answer, completion_of(answer, payload))

    def parse(self, **payload: Any) -> RawResponse:
        """Send a request with a `response_format`, and parse the answer by it."""
        return self.create(**payload)

    def _answer(self, payload: Mapping[str, Any]) -> Answer:
        try:
            return self.requests.invoke(wire_of(payload))
        except ProviderError as error:
            raise_as(self.translate(error), error)


class AsyncCompletions:
    """Be openai's `AsyncOpenAI().chat.completions` for langchain-openai."""

    def __init__(self, raw: AsyncRawCompletions, original: Any) -> None:
        self.with_raw_response: AsyncRawCompletions = raw
        self._original = original

    async def create(self, **payload: Any) -> Any:
        """Return a completion, or a stream of its chunks."""
        if payload.get("stream"):
            raw = self.with_raw_response
            return AsyncChunks(raw.requests.astream(wire_of(payload)), raw.translate)
        return (await self.with_raw_response.create(**payload)).parse()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class Completions:
    """Be openai's `OpenAI().chat.completions` for langchain-openai."""

    def __init__(self, raw: RawCompletions, original: Any) -> None:
        self.with_raw_response: RawCompletions = raw
        self._original = original

    def create(self, **payload: Any) -> Any:
        """Return a completion, or a stream of its chunks."""
        if payload.get("stream"):
            raw = self.with_raw_response
            return SyncChunks(raw.requests.stream(wire_of(payload)), raw.translate)
        return self.with_raw_response.create(**payload).parse()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class _Overlay:
    """Be `original` with one attribute replaced."""

    def __init__(self, original: Any, **replaced: Any) -> None:
        self._original = original
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def clients(requests: ChatRequests, model: Any, translate: Translate) -> dict[str, Any]:
    """Return the client fields of a langchain-openai chat model: openai's clients with our completions."""
    fields: dict[str, Any] = {}
    synchronous = Completions(RawCompletions(requests, translate), model.client)
    asynchronous = AsyncCompletions(AsyncRawCompletions(requests, translate), model.async_client)
    for prefix, completions in (("", synchronous), ("async_", asynchronous)):
        root = getattr(model, f"root_{prefix}client")
        fields[f"{prefix}client"] = completions
        chat = _Overlay(root and root.chat, completions=completions)
        fields[f"root_{prefix}client"] = _Overlay(root, chat=chat)
    return fields
