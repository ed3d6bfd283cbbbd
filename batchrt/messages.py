"""Messages to and from a model, and token usage, independent of their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

__all__ = [
    "AIMessage",
    "Content",
    "HumanMessage",
    "Message",
    "MessageLike",
    "SystemMessage",
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


@dataclass(frozen=True, slots=True)
class AIMessage(Message):
    """Hold a model's answer and the provider's metadata.

    Attributes:
        refusal: the model's reason for not answering, if it gave one.
        finish_reason: `stop`, `length`, `tool_calls`, `content_filter`, `function_call`, or `None`.
        usage: the tokens billed, or `None` if the server does not report them.
        model: the model that answered, as named by the server.
        request_id: the provider's id of the exchange.
        tool_calls: the tool calls, as JSON from the response.
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
    tool_calls: Sequence[Mapping[str, Any]] = field(default=(), kw_only=True)
    reasoning: str | None = field(default=None, kw_only=True)
    logprobs: Mapping[str, Any] | None = field(default=None, kw_only=True)

    @property
    def text(self) -> str:
        """The content as one string, without reasoning and parts that are not text."""
        return text_of_content(self.content)


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
