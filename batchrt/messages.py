"""What is said to a model and what it answers, apart from how either travels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = [
    "AIMessage",
    "Content",
    "HumanMessage",
    "Message",
    "MessageLike",
    "SystemMessage",
    "Usage",
]

Content: TypeAlias = "str | Sequence[Mapping[str, Any]] | None"
"""A message's text, or the API's list of content parts (text, images …), or nothing."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Count tokens as the provider billed them; adds up with `+`."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.total_tokens + other.total_tokens,
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
    """

    role: str = field(default="assistant", kw_only=True)
    content: Content = field(default="", kw_only=False)
    refusal: str | None = field(default=None, kw_only=True)
    finish_reason: str | None = field(default=None, kw_only=True)
    usage: Usage | None = field(default=None, kw_only=True)
    model: str | None = field(default=None, kw_only=True)
    request_id: str | None = field(default=None, kw_only=True)
    tool_calls: Sequence[Mapping[str, Any]] = field(default=(), kw_only=True)

    @property
    def text(self) -> str:
        """The content as one string; content parts that are not text are left out."""
        if isinstance(self.content, str):
            return self.content
        return "".join(str(part.get("text", "")) for part in self.content or ())


MessageLike: TypeAlias = "Message | Mapping[str, Any] | tuple[str, Content]"
"""A message object, the API's own dict, or a `(role, content)` pair."""
