"""Messages and their usage as answers have them, made faster than by their constructors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchrt.messages import AIMessage, Content, Message, Usage

__all__ = ["answer_message", "plain_usage"]


class _UsageInTheMaking:
    """A `Usage` that is not frozen yet.

    The constructor of a frozen dataclass sets each field by a call, and takes four times as long as this. To
    make a message and its usage would take longer than to parse the answer they come from.
    """

    __slots__ = Usage.__slots__


class _AnswerInTheMaking(Message):
    """An `AIMessage` that is not frozen yet; see `_UsageInTheMaking`."""

    __slots__ = AIMessage.__slots__
    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__  # with that of the base, Python would call both through a slower way


def plain_usage(input_tokens: int, output_tokens: int, total_tokens: int) -> Usage:
    """Return `Usage(input_tokens, output_tokens, total_tokens)`, faster."""
    made: Any = _UsageInTheMaking()
    made.input_tokens = input_tokens
    made.output_tokens = output_tokens
    made.total_tokens = total_tokens
    made.cached_input_tokens = made.cache_write_tokens = made.reasoning_tokens = 0
    made.input_audio_tokens = made.output_audio_tokens = 0
    made.service_tier = None
    made.__class__ = Usage
    usage: Usage = made
    return usage


def answer_message(  # noqa: PLR0917  the fields of `AIMessage`
    content: Content,
    refusal: str | None,
    finish_reason: str | None,
    usage: Usage | None,
    model: str | None,
    request_id: str | None,
    raw_tool_calls: Sequence[Mapping[str, Any]],
    reasoning: str | None,
    logprobs: Mapping[str, Any] | None,
) -> AIMessage:
    """Return an `AIMessage` with these fields, faster than its constructor."""
    made: Any = object.__new__(_AnswerInTheMaking)
    made.role, made.content, made.name = "assistant", content, None
    made.refusal = refusal
    made.finish_reason = finish_reason
    made.usage = usage
    made.model = model
    made.request_id = request_id
    made.raw_tool_calls = raw_tool_calls
    made.reasoning = reasoning
    made.logprobs = logprobs
    made.__class__ = AIMessage
    message: AIMessage = made
    return message
