"""Messages to and from a model, and token usage, independent of their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from batchrt.tool_calls import (
    InvalidToolCall,
    ToolCall,
    ToolCallChunk,
    parse_tool_calls,
    raw_tool_calls_of,
)

__all__ = [
    "AIMessage",
    "AIMessageChunk",
    "Content",
    "HumanMessage",
    "Message",
    "MessageLike",
    "SystemMessage",
    "ToolMessage",
    "Usage",
    "text_of_content",
]

Content: TypeAlias = "str | Sequence[Mapping[str, Any]] | None"
"""A message's text, or the API's list of content parts (text, images …), or nothing."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Count tokens as billed by the provider; add up with `+`.

    Attributes:
        input_tokens: tokens of the prompt, cached and audio tokens included.
        output_tokens: tokens of the answer, reasoning and audio tokens included.
        total_tokens: the sum of both.
        cached_input_tokens: prompt tokens read from the provider's cache.
        cache_write_tokens: prompt tokens written to it, where the provider charges for that.
        reasoning_tokens: answer tokens used for reasoning.
        input_audio_tokens, output_audio_tokens: audio tokens.
        service_tier: the tier billed (`default`, `flex`, `priority` …), if the server reports it; `None` for
            a sum over several tiers.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_input_tokens: int = field(default=0, kw_only=True)
    reasoning_tokens: int = field(default=0, kw_only=True)
    input_audio_tokens: int = field(default=0, kw_only=True)
    output_audio_tokens: int = field(default=0, kw_only=True)
    cache_write_tokens: int = field(default=0, kw_only=True)
    service_tier: str | None = field(default=None, kw_only=True)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.total_tokens + other.total_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            input_audio_tokens=self.input_audio_tokens + other.input_audio_tokens,
            output_audio_tokens=self.output_audio_tokens + other.output_audio_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            service_tier=self.service_tier if self.service_tier == other.service_tier else None,
        )


@dataclass(frozen=True, slots=True)
class Message:
    """Hold `content` by `role` (`system`, `developer`, `user`, `assistant`, `tool`)."""

    role: str
    content: Content
    name: str | None = None

    @property
    def text(self) -> str:
        """The content as one string, without reasoning and parts that are not text."""
        return text_of_content(self.content)

    @property
    def type(self) -> str:
        """LangChain's name of the role: `human`, `ai`, `system`, `tool`, or the role itself."""
        return _TYPES.get(self.role, self.role)

    @property
    def id(self) -> str | None:
        """Identify the message; a model's by the `request_id`, others by nothing."""
        return None

    def pretty_repr(self) -> str:
        """Return the text below a line with the type, to be read by people."""
        title = f" {self.type.title()} Message "
        named = f"\nName: {self.name}" if self.name else ""
        return f"{title:=^80}{named}\n\n{self.text}"

    def pretty_print(self) -> None:
        """Print `pretty_repr()`."""
        print(self.pretty_repr())  # noqa: T201


_TYPES: Final = {"user": "human", "assistant": "ai"}


@dataclass(frozen=True, slots=True)
class SystemMessage(Message):
    """Hold instructions for the model."""

    role: str = field(default="system", kw_only=True)
    content: Content = field(default="", kw_only=False)


@dataclass(frozen=True, slots=True)
class HumanMessage(Message):
    """Hold a user's message."""

    role: str = field(default="user", kw_only=True)
    content: Content = field(default="", kw_only=False)


@dataclass(frozen=True, slots=True, init=False)
class AIMessage(Message):
    """Hold a model's answer and the provider's metadata.

    Args:
        tool_calls: the calls in LangChain's form or the API's, in place of `raw_tool_calls`.

    Attributes:
        refusal: the model's reason for not answering, if it gave one.
        finish_reason: `stop`, `length`, `tool_calls`, `content_filter`, `function_call`, or `None`.
        usage: the tokens billed, or `None` if the server does not report them.
        model: the model that answered, as named by the server.
        request_id: the provider's id of the exchange.
        raw_tool_calls: the tool calls, as JSON from the response; `tool_calls` has them parsed.
        reasoning: the model's reasoning before the answer, if the server shows it; not part of `text`.
        logprobs: the choice's `logprobs`, as JSON from the response, if they were requested.
    """

    role: str = field(default="assistant", kw_only=True)
    content: Content = field(default="", kw_only=False)
    refusal: str | None = field(default=None, kw_only=True)
    finish_reason: str | None = field(default=None, kw_only=True)
    usage: Usage | None = field(default=None, kw_only=True)
    model: str | None = field(default=None, kw_only=True)
    request_id: str | None = field(default=None, kw_only=True)
    raw_tool_calls: Sequence[Mapping[str, Any]] = field(default=(), kw_only=True)
    reasoning: str | None = field(default=None, kw_only=True)
    logprobs: Mapping[str, Any] | None = field(default=None, kw_only=True)

    def __init__(
        self,
        content: Content = "",
        name: str | None = None,
        *,
        role: str = "assistant",
        refusal: str | None = None,
        finish_reason: str | None = None,
        usage: Usage | None = None,
        model: str | None = None,
        request_id: str | None = None,
        tool_calls: Sequence[Mapping[str, Any]] = (),
        raw_tool_calls: Sequence[Mapping[str, Any]] = (),
        reasoning: str | None = None,
        logprobs: Mapping[str, Any] | None = None,
    ) -> None:
        put = object.__setattr__  # the class is frozen
        put(self, "content", content)
        put(self, "name", name)
        put(self, "role", role)
        put(self, "refusal", refusal)
        put(self, "finish_reason", finish_reason)
        put(self, "usage", usage)
        put(self, "model", model)
        put(self, "request_id", request_id)
        put(self, "raw_tool_calls", raw_tool_calls_of(tool_calls) if tool_calls else raw_tool_calls)
        put(self, "reasoning", reasoning)
        put(self, "logprobs", logprobs)

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls of functions, parsed: `name`, `args` and `id`."""
        return parse_tool_calls(self.raw_tool_calls)[0]

    @property
    def invalid_tool_calls(self) -> list[InvalidToolCall]:
        """The calls whose arguments are no JSON object."""
        return parse_tool_calls(self.raw_tool_calls)[1]

    @property
    def id(self) -> str | None:
        """The `request_id`."""
        return self.request_id

    @property
    def usage_metadata(self) -> dict[str, Any] | None:
        """The `usage` in LangChain's form."""
        usage = self.usage
        if usage is None:
            return None
        return {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
            "input_token_details": {
                "audio": usage.input_audio_tokens,
                "cache_creation": usage.cache_write_tokens,
                "cache_read": usage.cached_input_tokens,
            },
            "output_token_details": {
                "audio": usage.output_audio_tokens,
                "reasoning": usage.reasoning_tokens,
            },
        }

    @property
    def response_metadata(self) -> dict[str, Any]:
        """The `model`, `finish_reason` and `logprobs` by LangChain's names, if the server sent them."""
        said = {"model_name": self.model, "finish_reason": self.finish_reason, "logprobs": self.logprobs}
        return {name: value for name, value in said.items() if value is not None}

    @property
    def additional_kwargs(self) -> dict[str, Any]:
        """The `refusal` and the raw tool calls, where LangChain has them."""
        raw = {"refusal": self.refusal, "tool_calls": list(self.raw_tool_calls) or None}
        return {name: value for name, value in raw.items() if value is not None}


@dataclass(frozen=True, slots=True, init=False)
class AIMessageChunk(AIMessage):
    """Hold a part of a model's answer; the sum of all chunks, by `+`, holds all of it.

    Contents, reasoning, refusals and log probabilities are joined, tool calls are joined by their `index`. Of
    `finish_reason` and `usage` the last one counts, of `model` and `request_id` the first.

    Attributes:
        raw_tool_calls: fragments of tool calls, as JSON; each has an `index`, its call's place among all.
        is_null: the server sent null in place of a content, or nothing; true for the sum if it is for each.
    """

    is_null: bool = field(default=False, kw_only=True, repr=False)

    def __init__(self, content: Content = "", *, is_null: bool = False, **fields: Any) -> None:
        AIMessage.__init__(self, content, **fields)
        object.__setattr__(self, "is_null", is_null)

    @property
    def tool_call_chunks(self) -> list[ToolCallChunk]:
        """The fragments of calls of functions in LangChain's form."""
        return [_chunk_of(call) for call in self.raw_tool_calls]

    @classmethod
    def of(cls, message: AIMessage) -> AIMessageChunk:
        """Return a whole message as its only chunk."""
        return cls(
            "" if message.content is None else message.content,
            raw_tool_calls=[{**call, "index": index} for index, call in enumerate(message.raw_tool_calls)],
            is_null=message.content is None,
            **_facts_of(message),
        )

    def __add__(self, other: AIMessageChunk) -> AIMessageChunk:
        if not isinstance(other, AIMessageChunk):
            return NotImplemented
        return AIMessageChunk(
            _joined_content(self.content, other.content),
            name=self.name or other.name,
            refusal=_joined(self.refusal, other.refusal),
            finish_reason=other.finish_reason or self.finish_reason,
            usage=other.usage or self.usage,
            model=self.model or other.model,
            request_id=self.request_id or other.request_id,
            raw_tool_calls=_joined_calls(self.raw_tool_calls, other.raw_tool_calls),
            reasoning=_joined(self.reasoning, other.reasoning),
            logprobs=_joined_lists(self.logprobs, other.logprobs),
            is_null=self.is_null and other.is_null,
        )

    def to_message(self) -> AIMessage:
        """Return the message that this, the sum of all its chunks, stands for."""
        return AIMessage(
            None if self.is_null and not self.content else self.content,
            raw_tool_calls=[
                {name: value for name, value in call.items() if name != "index"}
                for call in self.raw_tool_calls
            ]
            or (),
            **_facts_of(self),
        )


_FACTS: Final = ["name", "refusal", "finish_reason", "usage", "model", "request_id", "reasoning", "logprobs"]
"""Fields that a message and its only chunk have in common."""


def _facts_of(message: AIMessage) -> dict[str, Any]:
    return {name: getattr(message, name) for name in _FACTS}


def _chunk_of(call: Mapping[str, Any]) -> ToolCallChunk:
    function = call.get("function") or {}
    return ToolCallChunk(
        name=function.get("name"),
        args=function.get("arguments"),
        id=call.get("id"),
        index=call.get("index"),
        type="tool_call_chunk",
    )


def _joined(first: str | None, second: str | None) -> str | None:
    return second if first is None else first if second is None else first + second


def _joined_content(first: Content, second: Content) -> Content:
    """Return one content after the other: a text, or a list of parts if one of them is a list."""
    if isinstance(first, str) and isinstance(second, str):
        return first + second
    if not first or not second:
        return first or second
    return _joined_parts(_parts_of(first), _parts_of(second))


def _parts_of(content: Content) -> list[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())


def _joined_parts(first: list[Mapping[str, Any]], second: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the parts of both lists; the two that meet are one if they hold text of the same type."""
    if first and second:
        last, following = first[-1], second[0]
        key = "thinking" if last.get("type") == "thinking" else "text"
        if last.get("type") == following.get("type") and last.keys() == following.keys():
            one, two = last.get(key), following.get(key)
            if isinstance(one, str) and isinstance(two, str):
                return [*first[:-1], {**last, key: one + two}, *second[1:]]
            if isinstance(one, list) and isinstance(two, list):
                return [*first[:-1], {**last, key: _joined_parts(one, two)}, *second[1:]]
    return [*first, *second]


def _joined_lists(
    first: Mapping[str, Any] | None, second: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """Return log probabilities by name, the lists of the second behind those of the first."""
    if not first or not second:
        return first or second
    joined = dict(first)
    for name, value in second.items():
        known = joined.get(name)
        both = isinstance(known, list) and isinstance(value, list)
        joined[name] = known + value if both else known if value is None else value
    return joined


def _joined_calls(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> Sequence[Mapping[str, Any]]:
    if not first or not second:
        return first or second
    joined = list(first)
    places = {call.get("index"): place for place, call in enumerate(joined)}
    for call in second:
        place = places.get(call.get("index"))
        if place is None:
            places[call.get("index")] = len(joined)
            joined.append(call)
        else:
            joined[place] = _joined_members(joined[place], call)
    return joined


_GROWING: Final = frozenset(("arguments", "input", "name"))
"""Members of a tool call that come in pieces; of the others the first value counts."""


def _joined_members(first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any]:
    joined = dict(first)
    for name, value in second.items():
        known = joined.get(name)
        if known is None:
            joined[name] = value
        elif isinstance(known, Mapping) and isinstance(value, Mapping):
            joined[name] = _joined_members(known, value)
        elif name in _GROWING and isinstance(known, str) and isinstance(value, str):
            joined[name] = known + value
    return joined


@dataclass(frozen=True, slots=True)
class ToolMessage(Message):
    """Hold the result of a tool call.

    Attributes:
        tool_call_id: the id of the call that it answers.
    """

    role: str = field(default="tool", kw_only=True)
    content: Content = field(default="", kw_only=False)
    tool_call_id: str = field(default="", kw_only=True)


_THOUGHTS: Final = frozenset(
    ("reasoning", "reasoning_content", "reasoning_text", "redacted_thinking", "summary_text", "thinking")
)
"""Types of content parts with reasoning: Mistral, Anthropic, OpenAI's Responses API."""


def text_of_content(content: Content) -> str:
    """Return the text in a message's content; images, reasoning and null have none."""
    if isinstance(content, str):
        return content
    return "".join(map(_text_of_part, content or ()))


def _text_of_part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return ""
    kind = part.get("type")
    if (isinstance(kind, str) and kind in _THOUGHTS) or part.get("thought") is True:
        return ""
    text = part.get("text")
    if isinstance(text, Mapping):  # as in the Assistants API: {"value": ..., "annotations": [...]}
        text = text.get("value")
    return text if isinstance(text, str) else ""


MessageLike: TypeAlias = "Message | Mapping[str, Any] | tuple[str, Content]"
"""A message object, the API's own dict, or a `(role, content)` pair."""
