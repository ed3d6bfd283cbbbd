"""The choices of a response: put in order, checked for failures, read as messages; no I/O.

Strict in the essentials: a choice without content needs a reason for that, and a failure that a choice
reports is an error. Tolerant in the rest: no answer is rejected, and paid for again, for a malformed detail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from batchrt.messages import AIMessage, Usage, text_of_content
from batchrt.providers.http.response import Reply
from batchrt.providers.quick_messages import answer_message
from batchrt.providers.response_body import ReportedError, ShapeError, is_error_reported, whole_number

__all__ = [
    "ENDED",
    "check_failure",
    "choices_of",
    "explains_missing_text",
    "finish_reason_of",
    "first_message",
    "ordered_choices",
    "parts_of",
    "positions_of",
    "read_message",
    "reasoning_of",
    "refusal_of",
]

FAILED: Final[Mapping[str, str]] = {
    "error": "OpenRouter; vLLM",
    "abort": "vLLM and SGLang, for a request that the engine gave up",
    "aborted": "the same, of gateways",
    "failed": "gateways of the Responses API",
    "insufficient_system_resource": "DeepSeek, https://api-docs.deepseek.com/api/create-chat-completion",
    "network_error": "Zhipu, https://docs.bigmodel.cn/api-reference",
}
"""Values of `finish_reason` for a failure of the server part-way, and their sources."""


def choices_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a response's choices, at least one.

    Raises:
        ShapeError: there is none.
    """
    choices = data.get("choices")
    if type(choices) is list and len(choices) == 1 and type(choices[0]) is dict:
        return choices
    if isinstance(choices, dict) and "message" in choices:
        return [choices]
    if not isinstance(choices, list) or not choices:
        raise ShapeError("has no choices" if not choices else "has choices that are no list")
    found = [choice for choice in choices if isinstance(choice, dict)]
    if not found:
        raise ShapeError("has a choice that is no object")
    return found


def ordered_choices(data: dict[str, Any], prompts: int, each: int) -> list[dict[str, Any]]:
    """Return a response's choices in the order of their `index`: i · each + j is the j-th of prompt i.

    With a single prompt the choices are interchangeable, and their indexes are ignored.

    Raises:
        ShapeError: there are not `prompts · each` choices, as from a server that makes one prompt of a list,
            or their order is unknown. Then none of them can be trusted.
    """
    choices = choices_of(data)
    wanted = prompts * each
    if len(choices) != wanted:
        raise ShapeError(f"has {_number(len(choices))} where {wanted} were asked for", lasting=True)
    if prompts == 1:
        return choices
    places = positions_of([choice.get("index") for choice in choices])
    if places is None:
        raise ShapeError(f"has choices whose indexes are not 0 to {wanted - 1}, each once", lasting=True)
    ordered = [choices[0]] * wanted
    for place, choice in zip(places, choices, strict=True):
        ordered[place] = choice
    return ordered


def _number(choices: int) -> str:
    return "1 choice" if choices == 1 else f"{choices} choices"


def positions_of(indexes: Sequence[object]) -> Sequence[int] | None:
    """Return the positions, from 0, for these indexes; `None` if they do not define an order.

    Indexes may be numbers or numerals, from 0 or from 1. If all are missing, the order of arrival counts. A
    single missing index takes the only free position: a server that omits zeros, as protobuf does, omits the
    first. If more are missing, the others must match the order of arrival.
    """
    count = len(indexes)
    known = [index if type(index) is int else whole_number(index) for index in indexes]
    missing = [place for place, index in enumerate(known) if index is None]
    if any(indexes[place] is not None for place in missing):
        return None  # not a number
    given = {index for index in known if index is not None}
    if len(given) != count - len(missing):
        return None  # a duplicate
    first = 1 if given and max(given) == count and 0 not in given else 0
    if given and (min(given) < first or max(given) >= first + count):
        return None
    if len(missing) == 1:
        free = (count - 1) * count // 2 - sum(given) + first * len(given)
        return [free if index is None else index - first for index in known]
    if all(index in {None, first + place} for place, index in enumerate(known)):
        return range(count)
    return None if missing else [index - first for index in known if index is not None]


def check_failure(choice: Mapping[str, Any]) -> None:
    """Raise ReportedError for a choice that a failure interrupted.

    OpenRouter has sent status 200 by the time its upstream fails: it adds `error` and `finish_reason:
    "error"` to the partial answer.
    """
    message = choice.get("message")
    for holder in (choice, message):
        if isinstance(holder, dict) and "error" in holder and is_error_reported(holder["error"]):
            raise ReportedError({"error": holder["error"]})
    if choice.get("finish_reason") == "stop" and _NATIVE not in choice:
        return
    reason = finish_reason_of(choice)
    if reason is not None and reason.lower() in FAILED:
        raise ReportedError({"error": {"message": f"the answer broke off (finish_reason {reason})"}})


def finish_reason_of(choice: Mapping[str, Any]) -> str | None:
    """Return the reason why the answer ended; `None` if it is missing or malformed."""
    reason = choice.get("finish_reason")
    if isinstance(reason, dict):  # SGLang's own: {"type": "length", "length": 20}
        reason = reason.get("type")
    if reason == "stop" and _NATIVE in choice:
        reason = _native_reason(choice[_NATIVE]) or reason
    return reason if isinstance(reason, str) and reason else None


_NATIVE: Final = "provider_specific_fields"
"""LiteLLM's proxy reports every unknown reason as "stop", and keeps the upstream's own in this member
(version 1.108.7, findings/litellm-unknown-finish-reasons-become-stop.sh)."""


def _native_reason(fields: object) -> str | None:
    """Return the upstream's own reason unless it is one of a complete answer."""
    reason = fields.get("native_finish_reason") if isinstance(fields, dict) else None
    return reason if isinstance(reason, str) and _explains(reason) else None


def first_message(data: dict[str, Any], reply: Reply, usage: Usage | None) -> AIMessage:
    """Return the message of the choice with index 0, else of the first that has one.

    Raises:
        ShapeError: no choice has one; the error is about the first that was read.
        ReportedError: a choice reports an error.
    """
    choices = choices_of(data)
    if len(choices) == 1:
        return read_message(choices[0], data, reply, usage)
    choices = sorted(choices, key=lambda choice: whole_number(choice.get("index")) != 0)
    for choice in choices:
        check_failure(choice)
    first: ShapeError | None = None
    for choice in choices:
        try:
            return read_message(choice, data, reply, usage)
        except ShapeError as error:
            first = first or error
    assert first is not None
    raise first


def read_message(
    choice: dict[str, Any], data: dict[str, Any], reply: Reply, usage: Usage | None, index: int = 0
) -> AIMessage:
    """Return the message of one choice.

    Raises:
        ShapeError: it has none, without a reason.
        ReportedError: it reports an error.
    """
    message = choice.get("message")
    if (
        type(message) is dict
        and type(message.get("content")) is str
        and choice.get("finish_reason") == "stop"
        and _UNUSUAL.isdisjoint(message)
        and _UNUSUAL.isdisjoint(choice)
    ):
        # Nearly every message; the checks that others need would cost three times as much.
        refusal = message.get("refusal")
        parts: _Parts = message["content"], "stop", refusal if isinstance(refusal, str) else None, (), None
    else:
        parts = _read_unusual(choice, message, index)
    content, reason, refusal, tool_calls, reasoning = parts
    model, logprobs = data.get("model"), choice.get("logprobs")
    return answer_message(
        content,
        refusal,
        reason,
        usage,
        model if isinstance(model, str) else None,
        reply.request_id,
        tool_calls,
        reasoning,
        logprobs if isinstance(logprobs, dict) and logprobs else None,
    )


_Parts: TypeAlias = tuple[Any, str | None, str | None, Sequence[Mapping[str, Any]], str | None]
"""A message's content, the reason why it ended, its refusal, tool calls and reasoning."""


def _read_unusual(choice: dict[str, Any], message: object, index: int) -> _Parts:
    """Return the parts of a message that is not simply a text at its end."""
    check_failure(choice)
    reason = finish_reason_of(choice)
    if not isinstance(message, dict):
        message = _message_elsewhere(choice, f"choices[{index}]", reason)
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        content = parts_of(content, f"choices[{index}].message.content")
    tool_calls, refusal = _tool_calls(message.get("tool_calls")), refusal_of(message, content)
    reasoning = reasoning_of(message, content)
    if "content" not in message and not (
        _explains(reason) or tool_calls or reasoning or refusal is not None or any(map(message.get, _INSTEAD))
    ):
        raise ShapeError(f"has no choices[{index}].message.content", lasting=True)
    return content, reason, refusal, tool_calls, reasoning


ENDED: Final = frozenset(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "completed"))
"""Values of `finish_reason` for a complete answer, which are no reason for missing content."""


def explains_missing_text(choice: Mapping[str, Any]) -> bool:
    """Whether a choice has a `finish_reason` that accounts for missing content."""
    return _explains(finish_reason_of(choice))


def _explains(reason: str | None) -> bool:
    """Whether an answer that ended for `reason` may lack content: a limit, a filter, a call."""
    return reason is not None and reason.lower() not in ENDED


_INSTEAD: Final = ("function_call", "audio")
"""Members of a message that may replace its content, besides tool calls and a refusal."""


def _message_elsewhere(choice: Mapping[str, Any], place: str, reason: str | None) -> dict[str, Any]:
    """Return the message of a choice without a `message` object.

    Raises:
        ShapeError: no other member holds one.
    """
    delta, text = choice.get("delta"), choice.get("text")
    if isinstance(delta, dict) and delta:  # the last chunk of a reassembled stream
        return delta
    if isinstance(text, str):  # a completion's
        return {"content": text}
    # Google's endpoint omits the message if its filter blocked the answer, or if thinking used up all tokens.
    if choice.get("message") is None and _explains(reason):
        return {}
    raise ShapeError(f"has no object {place}.message", lasting=True)


def parts_of(content: object, place: str) -> list[Mapping[str, Any]]:
    """Return a list of content parts, without nulls.

    Raises:
        ShapeError: `content` is not a list of parts.
    """
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        return [content]
    if isinstance(content, list):
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
        parts = [part for part in parts if part is not None]
        if all(isinstance(part, dict) for part in parts):
            return parts
    raise ShapeError(f"has a {place} that is neither text nor null", lasting=True)


def _tool_calls(calls: object) -> Sequence[Mapping[str, Any]]:
    if not calls:
        return ()
    if isinstance(calls, dict):
        return [calls]
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else ()


def refusal_of(message: Mapping[str, Any], content: object) -> str | None:
    """Return the refusal in a message, or in the parts of its content."""
    refusal = message.get("refusal")
    if refusal is None and isinstance(content, list):  # as a part: {"type": "refusal", "refusal": …}
        refusal = "".join(part["refusal"] for part in content if isinstance(part.get("refusal"), str))
        return refusal or None
    return refusal if isinstance(refusal, str) else None


_REASONING: Final = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
"""DeepSeek, vLLM and SGLang; OpenRouter, Groq and vLLM since 0.12; Ollama; GitHub Copilot."""


_THOUGHTS: Final = frozenset((*_REASONING, "reasoning_details"))
_UNUSUAL: Final = frozenset((*_THOUGHTS, "error", "tool_calls", _NATIVE))
"""Members of a choice or its message that take more than a look at the text."""


def reasoning_of(message: Mapping[str, Any], content: object) -> str | None:
    """Return the reasoning text of a message, from the first of the known members that has one."""
    if isinstance(content, str) and message.keys().isdisjoint(_THOUGHTS):
        return None
    for name in _REASONING:
        text = message.get(name)
        if isinstance(text, str) and text:
            return text
    details = message.get("reasoning_details")  # OpenRouter
    if isinstance(details, list):
        texts = [
            detail.get("text") or detail.get("summary") for detail in details if isinstance(detail, dict)
        ]
        found = "".join(text for text in texts if isinstance(text, str))
        if found:
            return found
    if not isinstance(content, list):
        return None
    return "".join(map(_thought, content)) or None


def _thought(part: Mapping[str, Any]) -> str:
    """Return the reasoning text in a content part of Mistral's or Anthropic's."""
    if part.get("type") == "reasoning" and isinstance(part.get("text"), str):
        return str(part["text"])
    thought = part.get("thinking") or part.get("reasoning")
    if isinstance(thought, str):
        return thought
    return text_of_content(thought) if isinstance(thought, list) else ""
