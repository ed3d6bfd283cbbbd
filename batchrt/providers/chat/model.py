"""Chat models behind an OpenAI-compatible API."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from batchrt.batching.list_call import ListCall
from batchrt.config import cache_of
from batchrt.messages import AIMessage, AIMessageChunk
from batchrt.providers.base import Model
from batchrt.providers.kept_answers import KeptAnswers, decode_message, encode_message
from batchrt.providers.list_requests import ListOptions, Send, listed
from batchrt.providers.list_support import ListMemory
from batchrt.providers.options import (
    OptionsSignature,
    SamplingOptions,
    check_extra_body,
    check_options,
    complete_options,
    lists_of,
    merge_options,
    model_name,
    sampling_options,
)
from batchrt.providers.stream_request import StreamUsage, producer
from batchrt.runnables.base import Runnable
from batchrt.runnables.chunk_sums import total_of
from batchrt.runnables.description import Description
from batchrt.runtime.step import Produce, Step, StepCall
from batchrt.runtime.strand import Strand

if TYPE_CHECKING:
    from typing import Unpack

    from batchrt.providers.chat.chat_chunks import ChatChunks
    from batchrt.providers.chat.messages_json import ChatInput, ChatRequest, Messages
    from batchrt.providers.chat.structured_output import Method, RawAndParsed
    from batchrt.providers.chat.tools import ToolChoice, ToolLike
    from batchrt.providers.http.endpoint import Endpoint
    from batchrt.providers.http.response import Reply
    from batchrt.runnables.binding import RunnableBinding
    from batchrt.runtime.clock import Clock

__all__ = ["ChatOpenAI"]

M = TypeVar("M")

_PATH: Final = "/chat/completions"


class ChatOpenAI(Model["ChatInput", AIMessage]):
    """Call a chat model; one input, one message.

    Takes a string (the user's text), a list of messages (`Message` objects, the API's dicts,
    `(role, content)` tuples) or a prompt's value. May be used from several event loops.

    Each input is a request of its own. With `native_batch`, inputs that are ready at the same time are sent
    as a list, as vLLM takes them (`/chat/completions/batch`). The server is only tried: one without that path
    (404, 405) gets single requests at once, and so does one that fails at lists whose conversations it
    answers one by one. Both are remembered for the life of this object, the second for requests with the same
    options, as vLLM's lists do not support tools. Messages from a list have no `usage`; the run's statistics
    divide the tokens among them.

    Streams (`astream`, `stream`) give `AIMessageChunk`s whose sum is the message. `timeout` then bounds the
    time until the answer begins and each silence in it, not the whole; an answer that breaks off after its
    first chunk is not asked for again, and its error has the chunks so far in `partial`.

    Args:
        model: the model's name.
        max_completion_tokens: most tokens of an answer, those of its reasoning included.
        reasoning_effort: as the API has it: `"low"`, `"high"` …
        native_batch: send lists. `timeout`, `max_retries` and `max_response_bytes` apply to each list as a
            whole; the options of lists are a ValueError without it.
        stream_usage: ask for the usage of streams (`stream_options`). A server that refuses that is not asked
            again.
        streaming: have answers streamed by the server also where the whole is wanted (`ainvoke`, `abatch`),
            so that `timeout` bounds each silence: for answers that take longer than any proxy waits. Not
            with lists.
        options: `SamplingOptions`, in `batchrt/providers/options.py`: the API's sampling options, address,
            key, timeout, retries, limits, lists. LangChain's names are understood too (`model_name`,
            `openai_api_key`, `openai_api_base`, `request_timeout`, `model_kwargs` …).

    Raises:
        AuthenticationError: no key was given for OpenAI's own address.
        TypeError: an option is unknown or of the wrong type.
        ValueError: an option makes no sense.

    `bind` overrides options for its part of a chain: `model.bind(stop=["END"], temperature=0)`.
    """

    InputType: Any = str | list[Any]
    OutputType: Any = AIMessage
    __signature__: OptionsSignature = OptionsSignature(SamplingOptions)

    def __init__(
        self,
        model: str | None = None,
        *,
        max_completion_tokens: int | None = None,
        reasoning_effort: str | None = None,
        native_batch: bool = False,
        stream_usage: bool = True,
        streaming: bool = False,
        **options: Unpack[SamplingOptions],
    ) -> None:
        settings = complete_options(ChatOpenAI, SamplingOptions, options)
        model = model_name(ChatOpenAI, model, settings)
        # Imported late: `import batchrt` must not load an HTTP library.
        from batchrt.providers.chat.chat_chunks import ChatChunks
        from batchrt.providers.chat.messages_json import ChatRequest, read_chat

        self._options = check_options(
            {
                "model": model,
                "max_completion_tokens": max_completion_tokens,
                "reasoning_effort": reasoning_effort,
                **sampling_options(settings),
            }
        )
        self._extra_body = check_extra_body(settings["extra_body"])
        if streaming and native_batch:
            raise ValueError("streaming is for single requests: leave out either it or native_batch")
        self._lists = _lists(settings, wanted=native_batch)
        self.share_lists: bool = settings["share_lists"]
        # Shared by all runs of this model.
        self._shared: dict[Hashable, ListCall] | None = {} if self.share_lists else None
        self._memory = ListMemory()
        self._stream_usage = StreamUsage(wanted=stream_usage)
        self._streaming = streaming
        self._connect(
            model,
            settings,
            max_completion_tokens=max_completion_tokens,
            reasoning_effort=reasoning_effort,
            native_batch=native_batch,
            stream_usage=stream_usage,
            streaming=streaming,
        )
        self._request_of = ChatRequest
        self._read_chat = read_chat
        self._chunks_of = ChatChunks
        self._request = self._request_for({})
        self._endpoint = self._client.endpoint(_PATH, *_model_and_most(self._request))

    def _request_for(self, kwargs: Mapping[str, Any]) -> ChatRequest:
        return self._request_of(merge_options(self._options, self._extra_body, kwargs))

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        fields = merge_options(self._options, self._extra_body, kwargs or {})
        described = self._described(_PATH, fields, self._request_of(fields).body)
        return described._replace(output_type=AIMessage)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        request, endpoint = self._request, self._endpoint
        if kwargs:
            request = self._request_for(kwargs)
            endpoint = self._client.endpoint(_PATH, *_model_and_most(request))
        ask, read, body_of = endpoint.call, self._read, request.body
        answers = self._answers(request)

        async def call(value: Any, strand: Strand) -> AIMessage:
            body = body_of(value)
            del value  # free the prompt: thousands of calls may await answers
            kept = cache_of(strand.config)
            if kept is None:
                return await ask(body, read, strand)
            return await answers.one(kept, body, strand, partial(ask, body, read, strand))

        sent = self._producer(endpoint, kwargs)
        produce = answers.streamed(sent, body_of, AIMessageChunk.of, AIMessageChunk.to_message)
        if self._streaming:
            return Step(self._whole_or_kept(_whole(sent), request), produce=produce)
        alone = Step(call)
        step = alone if self._lists is None else self._listed(alone, request, endpoint, self._lists)
        return step._replace(produce=produce)

    def _whole_or_kept(self, whole: StepCall, request: ChatRequest) -> StepCall:
        """Return the call of a model that streams all its answers, with a response cache before it."""
        answers, body_of = self._answers(request), request.body

        async def call(value: Any, strand: Strand) -> Any:
            kept = cache_of(strand.config)
            if kept is None:
                return await whole(value, strand)
            return await answers.one(kept, body_of(value), strand, partial(whole, value, strand))

        return call

    def _answers(self, request: ChatRequest) -> KeptAnswers[AIMessage]:
        url = self._client.address.canonical + _PATH
        return KeptAnswers("chat", url, encode_message, decode_message, model=request.names[0])

    def forget(self, value: ChatInput, strand: Strand, kwargs: Mapping[str, Any]) -> None:
        """Remove the answer to an input from the response cache of its run: it turned out to be unusable."""
        kept = cache_of(strand.config)
        if kept is not None:
            request = self._request_for(kwargs)
            self._answers(request).forget(kept, request.body(value))

    def _producer(self, endpoint: Endpoint, kwargs: Mapping[str, Any]) -> Produce:
        usage = self._stream_usage
        requests: dict[bool, ChatRequest] = {}

        def request(asks_usage: bool) -> ChatRequest:  # noqa: FBT001
            """Return the request, which is made with the first stream: most steps stream nothing."""
            if asks_usage not in requests:
                fields = merge_options(self._options, self._extra_body, kwargs)
                requests[asks_usage] = self._request_of(usage.fields(fields, usage=asks_usage))
            return requests[asks_usage]

        def read(head: Reply, clock: Clock) -> ChatChunks:
            return self._chunks_of(head, self._client.secrets, clock.wall)

        return producer(endpoint, usage, lambda value, asks: request(asks).body(value), read)

    def _listed(self, alone: Step, request: ChatRequest, endpoint: Endpoint, lists: ListOptions) -> Step:
        from batchrt.providers.chat.messages_json import encode_conversation

        return listed(
            alone,
            self._sender(request, endpoint),
            (self._answers(request), request.body_of),
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

    def bind_tools(
        self,
        tools: Sequence[ToolLike],
        *,
        tool_choice: ToolChoice = None,
        strict: bool | None = None,
        **options: Any,
    ) -> RunnableBinding[ChatInput, AIMessage]:
        """Return this with tools that the model may call; the calls are in the message's `tool_calls`.

        Args:
            tools: functions with typed parameters, pydantic models, TypedDicts, JSON schemas, tools of
                LangChain, or the API's own dicts. The docstring, up to its first blank line, describes the
                tool, and `Annotated[int, Field(description=…)]` or `Annotated[int, "…"]` a parameter.
            tool_choice: `"auto"`, `"none"`, `"required"` (also `"any"` and `True`: call one or more), the
                name of the tool to call, or the API's own dict; `None` leaves it to the server.
            strict: have the server enforce the parameters' schemas, which are rewritten as OpenAI requires.
            options: further options of the request, such as `parallel_tool_calls`.

        Raises:
            TypeError: a tool is none, or has a parameter of a type that JSON does not have.
            ValueError: a name or schema is wrong, or no tool has the name of `tool_choice`.
        """
        from batchrt.providers.chat.tools import tool_choice_of, tool_of

        described = [tool_of(tool, strict=strict) for tool in tools]
        choice = tool_choice_of(tool_choice, described)
        chosen = {} if choice is None else {"tool_choice": choice}
        return self.bind(tools=described, **chosen, **options)

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
        schema: type[Any] | Mapping[str, Any],
        *,
        method: Method = "json_schema",
        include_raw: Literal[True],
        strict: bool | None = None,
        max_reasks: int = 1,
    ) -> Runnable[ChatInput, RawAndParsed]: ...
    def with_structured_output(
        self,
        schema: type[Any] | Mapping[str, Any],
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        max_reasks: int = 1,
    ) -> Runnable[ChatInput, Any]:
        """Return a runnable that parses this model's answers as `schema`.

        Args:
            schema: a pydantic model, for validated instances; or a TypedDict or a JSON schema, for dicts that
                are not validated.
            method: `json_schema` makes the server follow the schema; `function_calling` makes the model
                call a tool of that schema, for servers without the former; `json_mode` asks for any JSON
                object, and the prompt has to describe it.
            include_raw: return `{"raw": message, "parsed": …, "parsing_error": …}` and do not raise
                for an answer that does not fit.
            strict: have the server enforce the schema, which is rewritten as OpenAI requires (all
                properties required, no others); `None` does so if the schema allows it, until the
                server refuses the rewritten schema.
            max_reasks: most requests that ask again, with the reason, for an answer that is complete and
                does not fit. Each counts as a retry, also against the retry budget.

        Raises:
            OutputParserError: (each item) the answer does not fit, is cut off or is a refusal.
            ValueError: `strict` is true, and the schema cannot be rewritten.
        """
        from batchrt.providers.chat.structured_output import StructuredChat

        return StructuredChat(
            self, schema, method=method, strict=strict, include_raw=include_raw, max_reasks=max_reasks
        )


def _whole(produce: Produce) -> StepCall:
    """Return the call whose output is the sum of a stream's chunks."""

    async def call(value: Any, strand: Strand) -> AIMessage:
        total: AIMessageChunk = await total_of(produce(value, strand))
        return total.to_message()

    return call


def _model_and_most(request: ChatRequest) -> tuple[str, float | None]:
    """Return the model's name and the most tokens of an answer."""
    return request.names[0], request.most


def _lists(settings: Mapping[str, Any], *, wanted: bool) -> ListOptions | None:
    """Return how lists are made; `None` if they are not.

    Raises:
        ValueError: an option of lists is given where none are made, or makes no sense.
    """
    if wanted:
        return lists_of(settings, own_path=True)
    if settings["share_lists"] or any(
        settings[name] is not None for name in ("max_batch_size", "linger", "max_linger")
    ):
        raise ValueError("max_batch_size, linger, max_linger and share_lists are for native_batch=True")
    return None
