"""Choices of a chat's answer: a text, or a message with tool calls, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from batchrt.messages import AIMessage, AIMessageChunk, Usage
from batchrt.testing.endpoints.answers import Messages, count_text, count_tokens, truncate

__all__ = ["ChatChoice", "choice_of", "usage_of"]


class ChatChoice(NamedTuple):
    """One answer to a conversation.

    Attributes:
        message: the message as JSON.
        tokens: the tokens of the answer.
        reason: the `finish_reason`.
        logprobs: log probabilities as JSON.
        usage: the tokens billed, in place of those that are counted.
    """

    message: dict[str, Any]
    tokens: int
    reason: str
    logprobs: Mapping[str, Any] | None = None
    usage: Usage | None = None

    def to_json(self, index: int) -> dict[str, Any]:
        """Return the choice in the API's form."""
        return {
            "index": index,
            "message": self.message,
            "logprobs": self.logprobs,
            "finish_reason": self.reason,
        }


def choice_of(answer: str | AIMessage, limit: int | None, name: str) -> ChatChoice:
    """Return the choice for an answer.

    Args:
        answer: a text, or a message. Without a `finish_reason` of its own, a message ends for `tool_calls` or
            `stop`, and a text longer than `limit` is cut, with all that follows it.
        limit: the request's `max_tokens`.
        name: the completion's, from which tool calls get the identifiers that they lack.
    """
    if isinstance(answer, str):
        text, tokens, reason = truncate(answer, limit)
        return ChatChoice(_message(text), tokens, reason)
    said = answer.to_message() if isinstance(answer, AIMessageChunk) else answer
    content = said.content
    calls = [_identified(call, f"call_{name}_{place}") for place, call in enumerate(said.raw_tool_calls)]
    ended = said.finish_reason or ("tool_calls" if calls else "stop")
    if said.finish_reason is None:
        text, _, reason = truncate(said.text, limit)
        if reason == "length":
            content, calls, ended = text, [], reason
    message = _message(content)
    message["refusal"] = said.refusal
    if said.reasoning is not None:
        message["reasoning_content"] = said.reasoning
    if calls:
        message["tool_calls"] = calls
    return ChatChoice(message, _tokens_of(message), ended, said.logprobs, said.usage)


def _message(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "refusal": None, "annotations": []}


def _identified(call: Mapping[str, Any], identifier: str) -> dict[str, Any]:
    return {**call, "id": call.get("id") or identifier, "type": call.get("type") or "function"}


def _tokens_of(message: Mapping[str, Any]) -> int:
    """Count the tokens of an answer: its content, its reasoning and its calls."""
    parts = [text for key in ("refusal", "reasoning_content") if (text := message.get(key))]
    for call in message.get("tool_calls", ()):
        parts += [str(value) for value in (call.get(call["type"]) or {}).values()]
    content = AIMessage(message["content"]).text
    return max(1, count_text(content) + sum(map(count_text, parts)))


def usage_of(asked: Sequence[Messages], choices: Sequence[ChatChoice]) -> tuple[dict[str, Any], str | None]:
    """Return the usage of a response as JSON, and the service tier that is billed.

    Args:
        asked: the conversations.
        choices: the answers, as many to each conversation, whose prompt counts once.
    """
    if all(choice.usage is None for choice in choices):
        prompt, answered = sum(map(count_tokens, asked)), sum(choice.tokens for choice in choices)
        return _counts(prompt, answered), None
    each = len(choices) // len(asked)
    total = Usage(service_tier=choices[0].usage.service_tier if choices[0].usage else None)
    for place, choice in enumerate(choices):
        counted = choice.usage or Usage(count_tokens(asked[place // each]), choice.tokens)
        total += counted if place % each == 0 else _of_answer(counted)
    return _usage_json(total), total.service_tier


def _of_answer(usage: Usage) -> Usage:
    return Usage(
        0,
        usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        output_audio_tokens=usage.output_audio_tokens,
        service_tier=usage.service_tier,
    )


def _counts(prompt: int, answered: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}


def _usage_json(usage: Usage) -> dict[str, Any]:
    prompt = {
        "cached_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "audio_tokens": usage.input_audio_tokens,
    }
    completion = {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": usage.output_audio_tokens}
    counts = _counts(usage.input_tokens, usage.output_tokens)
    for name, details in (("prompt_tokens_details", prompt), ("completion_tokens_details", completion)):
        if any(details.values()):
            counts[name] = {key: count for key, count in details.items() if count}
    return counts
