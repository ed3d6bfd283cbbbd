"""The choices of an answer: found, put in their places, checked for failures, read; no I/O.

Strict where it matters: an answer without words or an explanation is none, and a failure that a choice
reports is an error. Tolerant where it does not: no answer is refused, and paid for again, for a detail
beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from batchrt.messages import AIMessage, Usage, text_of_content
from batchrt.providers.http.response import Reply
from batchrt.providers.response_body import ReportedError, ShapeError, is_reported, whole_number

__all__ = [
    "any_message",
    "check_failure",
    "choices_of",
    "explains_nothing",
    "finish_reason_of",
    "placed",
    "placed_choices",
    "read_message",
]

FAILED: Final[Mapping[str, str]] = {
    "error": "OpenRouter; vLLM",
    "abort": "vLLM and SGLang, for a request that the engine gave up",
    "aborted": "the same, of gateways",
    "failed": "gateways of the Responses API",
    "insufficient_system_resource": "DeepSeek, https://api-docs.deepseek.com/api/create-chat-completion",
    "network_error": "Zhipu, https://docs.bigmodel.cn/api-reference",
}
"""Values of `finish_reason` that stand for a failure of the server half way, and where they come from."""


def choices_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an answer's choices, at least one.

    Raises:
        ShapeError: if there is none.
    """
    choices = data.get("choices")
    if isinstance(choices, dict) and "message" in choices:
        return [choices]
    if not isinstance(choices, list) or not choices:
        raise ShapeError("has no choices" if not choices else "has choices that are no list")
    found = [choice for choice in choices if isinstance(choice, dict)]
    if not found:
        raise ShapeError("has a choice that is no object")
    return found


def placed_choices(data: dict[str, Any], prompts: int, each: int) -> list[dict[str, Any]]:
    """Return an answer's choices in the order of their `index`: i · each + j is the j-th of prompt i.

    The choices for one prompt alone are alike: their indexes are not looked at.

    Raises:
        ShapeError: if there are more or fewer than `prompts · each`, as from a server that makes one
            prompt of a list, or their order cannot be told. Then none of them can be trusted.
    """
    choices = choices_of(data)
    wanted = prompts * each
    if len(choices) != wanted:
        raise ShapeError(f"has {_number(len(choices))} where {wanted} were asked for", lasting=True)
    if prompts == 1:
        return choices
    places = placed([choice.get("index") for choice in choices])
    if places is None:
        raise ShapeError(f"has choices whose indexes are not 0 to {wanted - 1}, each once", lasting=True)
    ordered = [choices[0]] * wanted
    for place, choice in zip(places, choices, strict=True):
        ordered[place] = choice
    return ordered


def _number(choices: int) -> str:
    return "1 choice" if choices == 1 else f"{choices} choices"


def placed(indexes: Sequence[object]) -> Sequence[int] | None:
    """Return the places, from 0, of what has these indexes; `None` if they are no order.

    Indexes may be numbers or their texts, and count from 0 or from 1. Where all are missing, the order is
    that in which they came. A single one that is missing has the one place that is free: a server that
    leaves out what is 0, as protobuf does, leaves out the first. Where more are missing, the others must
    be in the order in which they came.
    """
    count = len(indexes)
    known = [index if type(index) is int else whole_number(index) for index in indexes]
    missing = [place for place, index in enumerate(known) if index is None]
    if any(indexes[place] is not None for place in missing):
        return None  # something that is no number
    given = {index for index in known if index is not None}
    if len(given) != count - len(missing):
        return None  # one twice
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
    """Raise ReportedError for a choice that was not finished because something failed.

    OpenRouter has sent 200 by the time its upstream breaks off: `error` beside what there was until then,
    and `finish_reason: "error"`.
    """
    message = choice.get("message")
    for holder in (choice, message):
        if isinstance(holder, dict) and "error" in holder and is_reported(holder["error"]):
            raise ReportedError({"error": holder["error"]})
    if choice.get("finish_reason") == "stop" and _NATIVE not in choice:
        return
    reason = finish_reason_of(choice)
    if reason is not None and reason.lower() in FAILED:
        raise ReportedError({"error": {"message": f"the answer broke off (finish_reason {reason})"}})


def finish_reason_of(choice: Mapping[str, Any]) -> str | None:
    """Return why the answer ended, if that is said in a way that makes sense."""
    reason = choice.get("finish_reason")
    if isinstance(reason, dict):  # SGLang's own: {"type": "length", "length": 20}
        reason = reason.get("type")
    if reason == "stop" and _NATIVE in choice:
        reason = _native_reason(choice[_NATIVE]) or reason
    return reason if isinstance(reason, str) and reason else None


_NATIVE: Final = "provider_specific_fields"
"""LiteLLM's proxy reports every reason that it does not know as "stop", and keeps the upstream's own in here
(version 1.108.7, findings/litellm-unknown-finish-reasons-become-stop.sh)."""


def _native_reason(fields: object) -> str | None:
    """Return the upstream's own reason if it is another one than a complete answer's."""
    reason = fields.get("native_finish_reason") if isinstance(fields, dict) else None
    return reason if isinstance(reason, str) and _explains(reason) else None


def any_message(data: dict[str, Any], reply: Reply, usage: Usage | None) -> AIMessage:
    """Return the message of the choice with the index 0, else of the first that has one.

    Raises:
        ShapeError: none has one; it is about the one that was looked at first.
        ReportedError: a choice reports one.
    """
    choices = choices_of(data)
    if len(choices) > 1:
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
        ShapeError: it has none, and nothing explains that.
        ReportedError: it reports an error.
    """
    check_failure(choice)
    reason = finish_reason_of(choice)
    message = choice.get("message")
    if not isinstance(message, dict):
        message = _message_elsewhere(choice, f"choices[{index}]", reason)
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        content = _parts(content, f"choices[{index}].message.content")
    tool_calls, refusal = _tool_calls(message.get("tool_calls")), _refusal(message, content)
    reasoning = _reasoning(message, content)
    if "content" not in message and not (
        _explains(reason) or tool_calls or reasoning or refusal is not None or any(map(message.get, _INSTEAD))
    ):
        raise ShapeError(f"has no choices[{index}].message.content", lasting=True)
    model, logprobs = data.get("model"), choice.get("logprobs")
    return AIMessage(
        content,
        refusal=refusal,
        finish_reason=reason,
        usage=usage,
        model=model if isinstance(model, str) else None,
        request_id=reply.request_id,
        tool_calls=tool_calls,
        reasoning=reasoning,
        logprobs=logprobs if isinstance(logprobs, dict) and logprobs else None,
    )


_ENDED: Final = frozenset(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "completed"))
"""Values of `finish_reason` that say that the answer is whole, and so explain no missing one."""


def explains_nothing(choice: Mapping[str, Any]) -> bool:
    """Whether a choice without words says why it has none."""
    return _explains(finish_reason_of(choice))


def _explains(reason: str | None) -> bool:
    """Whether an answer may have no words because of why it ended: a limit, a filter, a call."""
    return reason is not None and reason.lower() not in _ENDED


_INSTEAD: Final = ("function_call", "audio")
"""Members of a message that may stand in place of its content, besides tool calls and a refusal."""


def _message_elsewhere(choice: Mapping[str, Any], place: str, reason: str | None) -> dict[str, Any]:
    """Return the message of a choice that has no object of this name.

    Raises:
        ShapeError: there is nothing like it.
    """
    delta, text = choice.get("delta"), choice.get("text")
    if isinstance(delta, dict) and delta:  # the last piece of a stream that was put together
        return delta
    if isinstance(text, str):  # a completion's
        return {"content": text}
    # Google's endpoint leaves the message of an answer out that its filter blocked, or that had no
    # tokens left after thinking.
    if choice.get("message") is None and _explains(reason):
        return {}
    raise ShapeError(f"has no object {place}.message", lasting=True)


def _parts(content: object, place: str) -> list[Mapping[str, Any]]:
    """Return a list of content parts, without what is no part.

    Raises:
        ShapeError: it is none.
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


def _refusal(message: Mapping[str, Any], content: object) -> str | None:
    refusal = message.get("refusal")
    if refusal is None and isinstance(content, list):  # as a part: {"type": "refusal", "refusal": …}
        refusal = "".join(part["refusal"] for part in content if isinstance(part.get("refusal"), str))
        return refusal or None
    return refusal if isinstance(refusal, str) else None


_REASONING: Final = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
"""DeepSeek, vLLM and SGLang; OpenRouter, Groq and vLLM since 0.12; Ollama; GitHub Copilot."""


_THOUGHTS: Final = frozenset((*_REASONING, "reasoning_details"))


def _reasoning(message: Mapping[str, Any], content: object) -> str | None:
    """Return what the model thought, in whichever of the usual places it stands."""
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
    """Return the thought in a content part of Mistral's or Anthropic's."""
    if part.get("type") == "reasoning" and isinstance(part.get("text"), str):
        return str(part["text"])
    thought = part.get("thinking") or part.get("reasoning")
    if isinstance(thought, str):
        return thought
    return text_of_content(thought) if isinstance(thought, list) else ""
