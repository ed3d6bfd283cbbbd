"""What is said to a model and what it answers, apart from how either travels."""

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
    """Count tokens as the provider billed them; adds up with `+`.

    Attributes:
        input_tokens: of the prompt, cached and audio ones included.
        output_tokens: of the answer, reasoning and audio ones included.
        total_tokens: both.
        cached_input_tokens: those of the prompt that were read from the provider's cache.
        reasoning_tokens: those of the answer that the model thought with.
        input_audio_tokens, output_audio_tokens: those that were audio.
        service_tier: the tier that they were billed at (`default`, `flex`, `priority` …), if the server
            says; `None` for a sum over several.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_input_tokens: int = field(default=0, kw_only=True)
    reasoning_tokens: int = field(default=0, kw_only=True)
    input_audio_tokens: int = field(default=0, kw_only=True)
    output_audio_tokens: int = field(default=0, kw_only=True)
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
            service_tier=self.service_tier if self.service_tier == other.service_tier else None,
        )


@dataclass(frozen=True, slots=True)
class Message:
    """Say `content` as `role` (`system`, `developer`, `user`, `assistant`, `tool`)."""

    role: str
    content: Content
    name: str | None = None


@dataclass(frozen=True, slots=True)
class SystemMessage(Message):
    """Instruct the model."""

    role: str = field(default="system", kw_only=True)
    content: Content = field(default="", kw_only=False)


@dataclass(frozen=True, slots=True)
class HumanMessage(Message):
    """Speak as the user."""

    role: str = field(default="user", kw_only=True)
    content: Content = field(default="", kw_only=False)


@dataclass(frozen=True, slots=True)
class AIMessage(Message):
    """Hold a model's answer and what the provider said about it.

    Attributes:
        refusal: the model's reason for not answering, where it gave one.
        finish_reason: `stop`, `length`, `tool_calls`, `content_filter`, `function_call`, or `None`.
        usage: the tokens billed, or `None` when the server does not say.
        model: the model that answered, as the server names it.
        request_id: the provider's name for the exchange.
        tool_calls: the tool calls as they came over the wire.
        reasoning: what the model thought before it answered, where the server shows it; no part of `text`.
        logprobs: the choice's `logprobs` as they came over the wire, where they were asked for.
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
        """The content as one string; content parts that are not text, or are thoughts, are left out."""
        return text_of_content(self.content)


_THOUGHTS: Final = frozenset(
    ("reasoning", "reasoning_content", "reasoning_text", "redacted_thinking", "summary_text", "thinking")
)
"""Types of content parts that hold what a model thought: Mistral, Anthropic, OpenAI's Responses API."""


def text_of_content(content: Content) -> str:
    """Return the words in a message's content; images, thoughts and what is null have none."""
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
