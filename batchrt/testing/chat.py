"""`POST /v1/chat/completions`: what it accepts and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from pydantic_core import from_json

from .answers import Messages, compose, count_tokens, cut
from .replies import RejectedError, Reply, json_reply
from .schemas import UnsupportedSchemaError

__all__ = ["Answer", "Chat"]

Answer: TypeAlias = Callable[[Mapping[str, Any]], str]

# Part of the answer, so the same every time.
_CREATED = 1_750_000_000
_FINGERPRINT = "fp_batchrt_mock"
_MOST_CHOICES = 128
_FORMATS = ("text", "json_object", "json_schema")


class Chat:
    """Answer chat requests; `answer` and `models` are those of MockProvider."""

    def __init__(self, seed: int, models: tuple[str, ...] | None, answer: Answer | None) -> None:
        self._seed = seed
        self._models = models
        self._answer = answer

    def reply(self, raw: bytes, name: str) -> Reply:
        """Answer the request `raw` as the completion `name`; RejectedError if it is wrong."""
        body = _parsed(raw)
        self._check_model(body.get("model"))
        messages = _checked_messages(body)
        _check_options(body)
        limit = _token_limit(body)
        choices: list[dict[str, Any]] = []
        completion_tokens = 0
        for index in range(body.get("n") or 1):
            text, tokens, reason = cut(self.text(body, messages, index), limit)
            completion_tokens += tokens
            choices.append(_choice(index, text, reason))
        prompt_tokens = count_tokens(messages)
        return json_reply(
            200,
            {
                "id": f"chatcmpl-{name}",
                "object": "chat.completion",
                "created": _CREATED,
                "model": body["model"],
                "choices": choices,
                "usage": {
                    "prompt_tokens": prompt_tokens,
                    "completion_tokens": completion_tokens,
                    "total_tokens": prompt_tokens + completion_tokens,
                },
                "system_fingerprint": _FINGERPRINT,
            },
        )

    def text(self, body: Mapping[str, Any], messages: Messages, index: int) -> str:
        """Give the whole text of one choice, before `max_tokens` cuts it."""
        if self._answer is not None:
            return self._answer(body)
        try:
            return compose(self._seed, messages, body.get("response_format"), index)
        except UnsupportedSchemaError as error:
            message = f"Invalid schema for response_format: {error}"
            raise RejectedError(400, message, param="response_format") from error

    def _check_model(self, model: object) -> None:
        if not isinstance(model, str) or not model:
            raise RejectedError(400, "you must provide a model parameter", param="model")
        if self._models is not None and model not in self._models:
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise RejectedError(404, message, param="model", code="model_not_found")


def _parsed(raw: bytes) -> Mapping[str, Any]:
    try:
        body = from_json(raw)
    except ValueError as error:
        message = f"We could not parse the JSON body of your request: {error}"
        raise RejectedError(400, message) from error
    if not isinstance(body, dict):
        raise RejectedError(400, "The body of your request must be a JSON object.")
    return body


def _checked_messages(body: Mapping[str, Any]) -> Messages:
    messages = body.get("messages")
    if messages is None:
        message = "Missing required parameter: 'messages'."
        raise RejectedError(400, message, param="messages", code="missing_required_parameter")
    if not isinstance(messages, list):
        raise _wrong_type("messages", "an array of messages")
    if not messages:
        message = "Invalid 'messages': expected at least one message."
        raise RejectedError(400, message, param="messages", code="empty_array")
    for index, message in enumerate(messages):
        _check_message(message, f"messages.[{index}]")
    return messages


def _check_message(message: Any, place: str) -> None:
    if not isinstance(message, dict):
        raise _wrong_type(place, "an object")
    role = message.get("role")
    if not isinstance(role, str):
        raise _wrong_type(f"{place}.role", "a string")
    content = message.get("content")
    if isinstance(content, str) or (content is None and role in ("assistant", "function")):
        return
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise _wrong_type(f"{place}.content", "a string or an array of objects")


def _check_options(body: Mapping[str, Any]) -> None:
    if body.get("stream"):
        raise RejectedError(
            400,
            "This mock does not stream: leave 'stream' out or set it to false.",
            param="stream",
            code="unsupported_value",
        )
    choices = body.get("n")
    if choices is not None and (not _is_count(choices) or choices > _MOST_CHOICES):
        raise _wrong_type("n", f"an integer from 1 to {_MOST_CHOICES}")
    wanted = body.get("response_format")
    if wanted is not None:
        _check_format(wanted)


def _check_format(wanted: Any) -> None:
    if not isinstance(wanted, dict) or wanted.get("type") not in _FORMATS:
        raise _wrong_type("response_format", f"an object whose type is one of {_FORMATS}")
    if wanted["type"] != "json_schema":
        return
    inner = wanted.get("json_schema")
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise _wrong_type("response_format.json_schema", "an object with a name")
    if not isinstance(inner.get("schema"), dict):
        raise _wrong_type("response_format.json_schema.schema", "a JSON Schema object")


def _token_limit(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = body.get(name)
        if limit is not None:
            if not _is_count(limit):
                raise _wrong_type(name, "a positive integer")
            return int(limit)
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _wrong_type(param: str, expected: str) -> RejectedError:
    message = f"Invalid value for '{param}': expected {expected}."
    return RejectedError(400, message, param=param, code="invalid_type")


def _choice(index: int, text: str, reason: str) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
        "logprobs": None,
        "finish_reason": reason,
    }
