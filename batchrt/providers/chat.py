"""Chat models behind an OpenAI-compatible API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from batchrt.messages import AIMessage
from batchrt.providers.options import check_extra_body, check_options
from batchrt.runnables.base import Runnable
from batchrt.runtime.run import Step, Strand

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from pydantic import BaseModel

    from batchrt.providers.client import Secret
    from batchrt.providers.reply import Reply
    from batchrt.providers.structured import Method, RawAndParsed
    from batchrt.providers.transport import HTTPClient, HTTPTransport
    from batchrt.providers.wire import ChatInput, ChatRequest
    from batchrt.runtime.clock import Clock

__all__ = ["ChatOpenAI"]

M = TypeVar("M", bound="BaseModel")


class ChatOpenAI(Runnable["ChatInput", AIMessage]):
    """Ask a chat model; one input, one request, one message.

    Takes a string (the user's words), a list of messages (`Message` objects, the API's dicts,
    `(role, content)` tuples) or a prompt's value. May be used from several event loops.

    Args:
        model: the model's name.
        base_url: where the API is; else `OPENAI_BASE_URL`, else OpenAI's. A user and password in
            it are sent as basic authentication.
        api_key: a string or `pydantic.SecretStr`; else `OPENAI_API_KEY`. An empty string sends
            none. Only OpenAI's own address insists on one.
        temperature, top_p, max_completion_tokens, max_tokens, stop, seed, frequency_penalty,
        presence_penalty, reasoning_effort: the API's sampling options, sent where given.
            `max_tokens` is the older name of `max_completion_tokens`; many local servers know only
            the older one, and OpenAI's reasoning models only the newer.
        timeout: seconds for each request, from connecting to the last byte; `None` for no end.
        max_retries: attempts after the first, for what may pass: 408, 409, 429, 5xx, broken
            connections, timeouts, malformed answers. The provider's `retry-after` is waited for; one
            of more than 120 s is an error at once, which says until when.
        http_client: send through this `httpx.AsyncClient`, which is bound to its event loop and
            stays yours to close.
        transport: send through this httpx transport (`httpx.MockTransport`,
            `httpx.ASGITransport` …).
        organization: else `OPENAI_ORG_ID`.
        project: else `OPENAI_PROJECT_ID`.
        extra_headers: sent with every request; they win over the client's own.
        extra_body: further members of the request's body; they win over the options.
        max_response_bytes: an answer that is larger is an error.

    Raises:
        AuthenticationError: no key was given, and OpenAI wants one.
        ValueError: for options that make no sense.

    `bind` overrides options for its part of a chain: `model.bind(stop=["END"], temperature=0)`.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_completion_tokens: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        reasoning_effort: str | None = None,
        timeout: float | None = 600.0,
        max_retries: int = 2,
        http_client: HTTPClient | None = None,
        transport: HTTPTransport | None = None,
        organization: str | None = None,
        project: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        max_response_bytes: int = 64 * 2**20,
    ) -> None:
        # The HTTP libraries are for those who ask a model, not for everybody who imports batchrt.
        from batchrt.providers.client import Client, Hidden
        from batchrt.providers.wire import ChatRequest, read_chat

        api_key = Hidden(api_key)
        self._options = check_options(
            {
                "model": model,
                "temperature": temperature,
                "top_p": top_p,
                "max_completion_tokens": max_completion_tokens,
                "max_tokens": max_tokens,
                "stop": stop,
                "seed": seed,
                "frequency_penalty": frequency_penalty,
                "presence_penalty": presence_penalty,
                "reasoning_effort": reasoning_effort,
            }
        )
        self._extra_body = check_extra_body(extra_body)
        self._client = Client(
            base_url=base_url,
            api_key=api_key,
            organization=organization,
            project=project,
            timeout=timeout,
            max_retries=max_retries,
            http_client=http_client,
            transport=transport,
            extra_headers=extra_headers,
            max_response_bytes=max_response_bytes,
        )
        self._url = self._client.address.url("/chat/completions")
        self._request_of = ChatRequest
        self._read_chat = read_chat
        self._request = self._request_for({})

    def __repr__(self) -> str:
        if "_client" not in self.__dict__:  # a debugger looks at a constructor that failed
            return "ChatOpenAI()"
        origin = self._client.address.origin
        return f"ChatOpenAI(model={self.model!r}, base_url={origin!r})"

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self._options["model"])

    def _request_for(self, kwargs: Mapping[str, Any]) -> ChatRequest:
        given = check_options(kwargs)
        extra = {**self._extra_body, **given.pop("extra_body", {})}
        options = {**self._options, **given}
        sent = {name: value for name, value in options.items() if value is not None}
        return self._request_of({**sent, **extra})

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        body_of = (self._request_for(kwargs) if kwargs else self._request).body
        client, url, read = self._client.call, self._url, self._read

        async def call(value: Any, strand: Strand) -> AIMessage:
            message = await client(url, body_of(value), read, strand)
            if message.usage is not None:
                strand.item.add_usage(message.usage)
            return message

        return Step(call)

    def _read(self, reply: Reply, clock: Clock) -> AIMessage:
        return self._read_chat(reply, self._client.secrets, clock.wall)

    @overload
    def with_structured_output(
        self,
        schema: type[M],
        *,
        method: Method = "json_schema",
        include_raw: Literal[False] = False,
        strict: bool | None = None,
    ) -> Runnable[ChatInput, M]: ...
    @overload
    def with_structured_output(
        self,
        schema: Mapping[str, Any],
        *,
        method: Method = "json_schema",
        include_raw: Literal[False] = False,
        strict: bool | None = None,
    ) -> Runnable[ChatInput, dict[str, Any]]: ...
    @overload
    def with_structured_output(
        self,
        schema: type[BaseModel] | Mapping[str, Any],
        *,
        method: Method = "json_schema",
        include_raw: Literal[True],
        strict: bool | None = None,
    ) -> Runnable[ChatInput, RawAndParsed]: ...
    def with_structured_output(
        self,
        schema: type[BaseModel] | Mapping[str, Any],
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
    ) -> Runnable[ChatInput, Any]:
        """Return this with answers as objects of `schema`.

        Args:
            schema: a pydantic model, whose instances come out, validated; or a JSON schema, for
                dicts that are as the server made them.
            method: `json_schema` has the server follow the schema; `json_mode` asks for any JSON
                object, and the prompt has to describe it.
            include_raw: give `{"raw": message, "parsed": …, "parsing_error": …}` and do not raise
                for an answer that does not fit.
            strict: have the schema enforced, for which it is rewritten as OpenAI demands (all
                properties required, no others); `None` does so where the schema allows it.

        Raises:
            OutputParserError: (each item) the answer does not fit, is cut off or is a refusal.
            ValueError: `strict` was asked for, and the schema cannot be.
        """
        from batchrt.providers.structured import StructuredChat

        return StructuredChat(self, schema, method=method, strict=strict, include_raw=include_raw)

    async def aclose(self) -> None:
        """Close the connections, and a `transport` that was handed in; the model is of no use afterwards.

        Not needed at exit: whoever lets go of a model loses nothing.
        """
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
