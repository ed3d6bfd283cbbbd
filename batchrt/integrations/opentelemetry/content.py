"""The content of requests and responses as attributes: parameters and, if they are asked for, messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from pydantic_core import from_json

from batchrt.integrations.opentelemetry import conventions as names

__all__ = ["Attributes", "input_messages", "json_of", "output_messages", "parameters", "response_attributes"]

Attributes: TypeAlias = "dict[str, str | bool | int | float | Sequence[str]]"

_MOST_BYTES: Final = 256 * 1024
"""Bytes of a body up to which it is parsed for a few members; longer ones are lists of inputs."""

_NUMBERS: Final = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}
_INTEGERS: Final = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "top_k": "gen_ai.request.top_k",
    "n": "gen_ai.request.choice.count",
    "dimensions": "gen_ai.embeddings.dimension.count",
}


def json_of(body: bytes, *, whole: bool) -> Mapping[str, Any]:
    """Return a body's members; none for one that is no object, or long unless the `whole` is wanted."""
    if len(body) > _MOST_BYTES and not whole:
        return {}
    try:
        data = from_json(body)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def parameters(body: Mapping[str, Any]) -> Attributes:
    """Return the parameters of a request, as far as the conventions have attributes for them."""
    found: Attributes = {}
    for name, attribute in _NUMBERS.items():
        if isinstance(value := body.get(name), int | float):
            found[attribute] = float(value)
    for name, attribute in _INTEGERS.items():
        if isinstance(value := body.get(name), int) and not (name == "n" and value == 1):
            found[attribute] = value
    if isinstance(effort := body.get("reasoning_effort"), str):
        found["gen_ai.request.reasoning.level"] = effort
    if isinstance(encoding := body.get("encoding_format"), str):
        found["gen_ai.request.encoding_formats"] = [encoding]
    stop = body.get("stop")
    if stop:
        found["gen_ai.request.stop_sequences"] = (
            [stop] if isinstance(stop, str) else [str(each) for each in stop]
        )
    form = body.get("response_format")
    if isinstance(form, dict) and isinstance(kind := form.get("type"), str):
        found[names.OUTPUT_TYPE] = "json" if kind.startswith("json") else kind
    return found


def response_attributes(body: Mapping[str, Any]) -> Attributes:
    """Return the identifier, the model and the finish reasons of a response."""
    found: Attributes = {}
    if isinstance(identifier := body.get("id"), str):
        found[names.RESPONSE_ID] = identifier
    if isinstance(model := body.get("model"), str):
        found[names.RESPONSE_MODEL] = model
    reasons = [choice.get("finish_reason") for choice in _choices(body)]
    if any(isinstance(reason, str) for reason in reasons):
        found[names.FINISH_REASONS] = [str(reason) for reason in reasons if reason is not None]
    return found


def input_messages(body: Mapping[str, Any]) -> str | None:
    """Return the messages of a request, in the conventions' form as JSON; `None` if it has none.

    The conversations of a list follow one another. A completion's prompts are messages of the user. The
    conventions have no attribute for texts that are embedded.
    """
    messages = body.get("messages")
    if isinstance(messages, list):
        flat = [one for each in messages for one in (each if isinstance(each, list) else [each])]
        return _json(
            {"role": _role(one), "parts": list(_parts(one))} for one in flat if isinstance(one, dict)
        )
    prompt = body.get("prompt")
    if prompt is None:
        return None
    prompts = prompt if isinstance(prompt, list) and all(isinstance(one, str) for one in prompt) else [prompt]
    return _json({"role": "user", "parts": [_text(one)]} for one in prompts)


def output_messages(body: Mapping[str, Any]) -> str | None:
    """Return the messages of a response, in the conventions' form as JSON; `None` if it has none."""
    choices = _choices(body)
    return _json(map(_output, choices)) if choices else None


def _choices(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    choices = body.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _output(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    message = choice.get("message")
    parts = list(_parts(message)) if isinstance(message, dict) else [_text(choice.get("text"))]
    return {"role": "assistant", "parts": parts, "finish_reason": choice.get("finish_reason")}


def _role(message: Mapping[str, Any]) -> str:
    return str(message.get("role") or "user")


def _text(content: Any) -> Mapping[str, Any]:
    return {"type": "text", "content": content if isinstance(content, str) else json.dumps(content)}


def _parts(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    content = message.get("content")
    if _role(message) == "tool":
        yield {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}
        return
    if isinstance(reasoning := message.get("reasoning_content") or message.get("reasoning"), str):
        yield {"type": "reasoning", "content": reasoning}
    for part in content if isinstance(content, list) else [] if content is None else [content]:
        image = part.get("image_url") if isinstance(part, dict) else None
        if isinstance(image, dict):
            yield {"type": "uri", "modality": "image", "uri": image.get("url")}
        else:
            yield _text(part.get("text", part) if isinstance(part, dict) else part)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments")
        yield {"type": "tool_call", "id": call.get("id"), "name": name, "arguments": arguments}


def _json(messages: Iterable[Mapping[str, Any]]) -> str:
    return json.dumps(list(messages), ensure_ascii=False)
