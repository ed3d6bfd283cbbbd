"""Chat models behind an OpenAI-compatible API."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from batchrt.batching.list_call import ListCall, lingering
from batchrt.messages import AIMessage
from batchrt.providers.base import Model
from batchrt.providers.list_requests import BATCH_SIZE, ListOptions, Send, listed
from batchrt.providers.list_support import ListMemory
from batchrt.providers.options import check_extra_body, check_lists, check_options
from batchrt.runnables.base import Runnable
from batchrt.runtime.run import Step, Strand

if TYPE_CHECKING:
    from pydantic import BaseModel

    from batchrt.limits.quota import Quota, Unchanged
    from batchrt.providers.chat.messages_json import ChatInput, ChatRequest, Messages
    from batchrt.providers.chat.structured_output import Method, RawAndParsed
    from batchrt.providers.http.client import Secret
    from batchrt.providers.http.endpoint import Endpoint
    from batchrt.providers.http.response import Reply
    from batchrt.providers.http.transport import HTTPClient, HTTPTransport
    from batchrt.runtime.clock import Clock
    from batchrt.runtime.retry import RetryPolicy

__all__ = ["ChatOpenAI"]

M = TypeVar("M", bound="BaseModel")

_PATH: Final = "/chat/completions"


class ChatOpenAI(Model["ChatInput", AIMessage]):
    """Ask a chat model; one input, one message.

    Takes a string (the user's words), a list of messages (`Message` objects, the API's dicts,
    `(role, content)` tuples) or a prompt's value. May be used from several event loops.

    An input is a request of its own, unless `native_batch` has those that are there at the same time
    sent as a list, as vLLM takes them (`/chat/completions/batch`). What the switch asks for is that the
    server is tried: one that has no such path (404, 405) gets single requests at once, and so does one
    that fails at lists whose conversations it answers one by one; both are remembered for as long as
    this object lives, the second for requests of the same options, as vLLM's lists know no tools.
    Messages that came in a list have no `usage`; the tokens are shared out in the books of the run.

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
            connections, timeouts, malformed answers; up to nine where a rate limit names the time. The
            provider's `retry-after` is waited for, by all who share the quota; one of more than 120 s is
            an error at once, which says until when.
        http_client: send through this `httpx.AsyncClient`, or httpx2's, which is bound to its event loop
            and stays yours to close.
        transport: send through this async transport of httpx's or httpx2's (`httpx.MockTransport`,
            `httpx.ASGITransport` …).
        organization: else `OPENAI_ORG_ID`.
        project: else `OPENAI_PROJECT_ID`.
        extra_headers: sent with every request; they win over the client's own.
        extra_body: further members of the request's body; they win over the options.
        max_response_bytes: an answer that is larger is an error.
        requests_per_minute, tokens_per_minute, requests_per_day, tokens_per_day, max_in_flight: limits
            for everybody in this process who names the same address, key and model: they belong to the
            quota that all of them share (`model.quota`, whose `statistics()` show them). The latest word
            counts, `None` lifts a limit, and what is not mentioned stays as it is. What the provider tells
            of its own limits is kept to without any.
        quota: a `Quota` of one's own that admits the requests, in place of the shared one.
        retry_policy: a `RetryPolicy` for what is tried again, and when; what it leaves out is as
            `max_retries` says.
        native_batch: send lists. `timeout`, `max_retries` and `max_response_bytes` hold for each as a
            whole.
        max_batch_size: with `native_batch`, the most conversations in a request; 20 unless it is said.
            A list is answered when its longest answer is.
        linger: with `native_batch`, seconds after the last arrival for which a list waits to be filled
            while inputs may still come; `None` for 0.05, or 0.005 with `share_lists`.
        max_linger: seconds after the first one; `None` for 1, or 0.05 with `share_lists`.
        share_lists: with `native_batch`, put conversations of concurrent runs together too, as a service
            wants it whose requests call `ainvoke` each for itself. A call then waits `linger` seconds for
            others.

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
        native_batch: bool = False,
        max_batch_size: int | None = None,
        linger: float | None = None,
        max_linger: float | None = None,
        share_lists: bool = False,
        requests_per_minute: float | Unchanged | None = "unchanged",
        tokens_per_minute: float | Unchanged | None = "unchanged",
        requests_per_day: float | Unchanged | None = "unchanged",
        tokens_per_day: float | Unchanged | None = "unchanged",
        max_in_flight: int | Unchanged | None = "unchanged",
        quota: Quota | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        # The HTTP libraries are for those who ask a model, not for everybody who imports batchrt.
        from batchrt.providers.chat.messages_json import ChatRequest, read_chat
        from batchrt.providers.http.client import Client, Hidden

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
        self._lists = _lists(max_batch_size, linger, max_linger, share_lists=share_lists, wanted=native_batch)
        self.share_lists = share_lists
        # Kept here: runs have nothing else in common.
        self._shared: dict[Hashable, ListCall] | None = {} if share_lists else None
        self._memory = ListMemory()
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
            quota=quota,
            limits={
                "requests_per_minute": requests_per_minute,
                "tokens_per_minute": tokens_per_minute,
                "requests_per_day": requests_per_day,
                "tokens_per_day": tokens_per_day,
                "max_in_flight": max_in_flight,
            },
            retry_policy=retry_policy,
            model=model,
        )
        self._request_of = ChatRequest
        self._read_chat = read_chat
        self._request = self._request_for({})
        self._endpoint = self._client.endpoint(_PATH, *_model_and_most(self._request))

    def _request_for(self, kwargs: Mapping[str, Any]) -> ChatRequest:
        given = check_options(kwargs)
        extra = {**self._extra_body, **given.pop("extra_body", {})}
        options = {**self._options, **given}
        sent = {name: value for name, value in options.items() if value is not None}
        return self._request_of({**sent, **extra})

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        request, endpoint = self._request, self._endpoint
        if kwargs:
            request = self._request_for(kwargs)
            endpoint = self._client.endpoint(_PATH, *_model_and_most(request))
        ask, read, body_of = endpoint.call, self._read, request.body

        async def call(value: Any, strand: Strand) -> AIMessage:
            body = body_of(value)
            del value  # thousands of prompts need not wait for their answers
            return await ask(body, read, strand)

        alone = Step(call)
        return alone if self._lists is None else self._listed(alone, request, endpoint, self._lists)

    def _listed(self, alone: Step, request: ChatRequest, endpoint: Endpoint, lists: ListOptions) -> Step:
        from batchrt.providers.chat.messages_json import encode_conversation

        return listed(
            alone,
            self._sender(request, endpoint),
            self._memory.support(request.names),
            lists,
            name=self.get_name(),
            identity=(self, request.start),
            prepare=encode_conversation,
            shared_calls=self._shared,
        )

    def _sender(self, request: ChatRequest, endpoint: Endpoint) -> Send:
        from batchrt.providers.chat.messages_json import read_chats

        client, alone = self._client, endpoint
        together = client.endpoint(f"{_PATH}/batch", *_model_and_most(request))

        async def send(conversations: Sequence[bytes], strand: Strand) -> Sequence[Any]:
            body = request.body_of(conversations)
            if len(conversations) == 1:
                return [await alone.call(body, self._read, strand)]

            def read(reply: Reply, clock: Clock) -> Messages:
                return read_chats(reply, len(conversations), client.secrets, clock.wall)

            answer = await together.call(body, read, strand, answers=len(conversations))
            return answer.messages

        return send

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
        max_reasks: int = 1,
    ) -> Runnable[ChatInput, M]: ...
    @overload
    def with_structured_output(
        self,
        schema: Mapping[str, Any],
        *,
        method: Method = "json_schema",
        include_raw: Literal[False] = False,
        strict: bool | None = None,
        max_reasks: int = 1,
    ) -> Runnable[ChatInput, dict[str, Any]]: ...
    @overload
    def with_structured_output(
        self,
        schema: type[BaseModel] | Mapping[str, Any],
        *,
        method: Method = "json_schema",
        include_raw: Literal[True],
        strict: bool | None = None,
        max_reasks: int = 1,
    ) -> Runnable[ChatInput, RawAndParsed]: ...
    def with_structured_output(
        self,
        schema: type[BaseModel] | Mapping[str, Any],
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        max_reasks: int = 1,
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
                properties required, no others); `None` does so where the schema allows it, and not any
                more once the server has refused it like that.
            max_reasks: how often to ask again, with the reason, for an answer that is whole and does not
                fit. Each costs a request and counts as a retry, also against the retry budget.

        Raises:
            OutputParserError: (each item) the answer does not fit, is cut off or is a refusal.
            ValueError: `strict` was asked for, and the schema cannot be.
        """
        from batchrt.providers.chat.structured_output import StructuredChat

        return StructuredChat(
            self, schema, method=method, strict=strict, include_raw=include_raw, max_reasks=max_reasks
        )


def _model_and_most(request: ChatRequest) -> tuple[str, float | None]:
    """Return the model's name, and how many tokens an answer may have."""
    return request.names[0], request.most


def _lists(
    max_batch_size: int | None,
    linger: float | None,
    max_linger: float | None,
    *,
    share_lists: bool,
    wanted: bool,
) -> ListOptions | None:
    """Return how lists are made, if they are.

    Raises:
        ValueError: something is said about lists that are not made, or makes no sense.
    """
    if not wanted:
        if share_lists or any(option is not None for option in (max_batch_size, linger, max_linger)):
            raise ValueError("max_batch_size, linger, max_linger and share_lists are for native_batch=True")
        return None
    size = BATCH_SIZE if max_batch_size is None else max_batch_size
    short, long = lingering(linger, max_linger, shared=share_lists)
    check_lists(size, short, long)
    return ListOptions(max_batch_size=size, linger=short, max_linger=long, own_path=True)
