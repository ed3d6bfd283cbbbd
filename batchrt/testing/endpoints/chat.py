"""`POST /v1/chat/completions`, and vLLM's `/batch` of it: validation and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from batchrt.messages import AIMessage
from batchrt.testing.endpoints.answers import Answer, Messages, compose_answer, custom_answer
from batchrt.testing.endpoints.chat_choices import ChatChoice, choice_of, usage_of
from batchrt.testing.endpoints.json_schema import UnsupportedSchemaError
from batchrt.testing.endpoints.replies import MockReply, RejectedError, TokenCharge, bytes_reply
from batchrt.testing.endpoints.request_body import (
    CREATED,
    FINGERPRINT,
    Reject,
    check_choices,
    check_inputs,
    check_model,
    parse_body,
    refuse_stream,
    token_limit,
    wrong_type,
)
from batchrt.testing.endpoints.streams import Streaming, asks_for_stream

__all__ = ["ChatEndpoint"]

_STREAMING = Streaming()
_FORMATS = ("text", "json_object", "json_schema")


class ChatEndpoint:
    """Answer chat requests; the arguments are those of MockProvider."""

    def __init__(
        self,
        seed: int,
        models: tuple[str, ...] | None,
        answer: Answer | None = None,
        reject: Reject | None = None,
        streaming: Streaming = _STREAMING,
    ) -> None:
        self._seed = seed
        self._streaming = streaming
        self._models = models
        self._answer = answer
        self._reject = reject

    def reply(self, raw: bytes, name: str) -> MockReply:
        """Answer the request `raw` as the completion `name`; RejectedError if it is invalid."""
        body = parse_body(raw)
        check_model(body.get("model"), self._models)
        messages = _checked_messages(body.get("messages"), "messages")
        try:
            stream = asks_for_stream(body)
            _check_options(body)
            self._check_texts(messages)
            limit = _limit(body)
            answers = [self.answer(body, messages, index) for index in range(body.get("n") or 1)]
        except RejectedError as error:
            error.set_items(1)
            raise
        choices = [choice_of(answer, limit, name) for answer in answers]
        document = _document(name, body, [messages], choices)
        charge = _charge(document, limit)
        streamed = self._streaming.reply(document, body, charge, items=1) if stream else None
        return streamed or bytes_reply(200, to_json(document), items=1, charge=charge)

    def reply_batch(self, raw: bytes, name: str) -> MockReply:
        """Answer a list of conversations: choice i is the answer to the i-th."""
        body = parse_body(raw)
        check_model(body.get("model"), self._models)
        conversations = body.get("messages")
        if not isinstance(conversations, list) or not conversations:
            raise wrong_type("messages", "an array of at least one array of messages")
        count = len(conversations)
        try:
            self._check_batch(body, conversations)
            limit = _limit(body)
            answers = [self.answer({**body, "messages": said}, said, 0) for said in conversations]
        except RejectedError as error:
            error.set_items(count)
            raise
        choices = [choice_of(answer, limit, f"{name}_{place}") for place, answer in enumerate(answers)]
        document = _document(name, body, conversations, choices)
        charge = _charge(document, limit)
        return bytes_reply(200, to_json(document), items=count, listed=True, entries="choices", charge=charge)

    def _check_batch(self, body: Mapping[str, Any], conversations: list[Any]) -> None:
        for index, messages in enumerate(conversations):
            _checked_messages(messages, f"messages.[{index}]")
            self._check_texts(messages)
        refuse_stream(body)
        _check_options(body)
        if body.get("n") not in (None, 1):
            raise wrong_type("n", "1: each conversation gets one choice")

    def _check_texts(self, messages: Messages) -> None:
        if self._reject is not None:
            texts = [text for message in messages for text in _texts(message)]
            check_inputs(texts, self._reject, "messages")

    def answer(self, body: Mapping[str, Any], messages: Messages, index: int) -> str | AIMessage:
        """Return one choice as a whole, before `max_tokens` truncates it."""
        if self._answer is not None:
            return custom_answer(self._answer, body)
        try:
            return compose_answer(self._seed, messages, body.get("response_format"), index)
        except UnsupportedSchemaError as error:
            message = f"Invalid schema for response_format: {error}"
            raise RejectedError(400, message, param="response_format") from error


def _checked_messages(messages: Any, place: str) -> Messages:
    if messages is None:
        message = f"Missing required parameter: '{place}'."
        raise RejectedError(400, message, param=place, code="missing_required_parameter")
    if not isinstance(messages, list):
        raise wrong_type(place, "an array of messages")
    if not messages:
        message = f"Invalid '{place}': expected at least one message."
        raise RejectedError(400, message, param=place, code="empty_array")
    for index, message in enumerate(messages):
        _check_message(message, f"{place}.[{index}]")
    return messages


def _check_message(message: Any, place: str) -> None:
    if not isinstance(message, dict):
        raise wrong_type(place, "an object")
    role = message.get("role")
    if not isinstance(role, str):
        raise wrong_type(f"{place}.role", "a string")
    content = message.get("content")
    if isinstance(content, str) or (content is None and role in ("assistant", "function")):
        return
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise wrong_type(f"{place}.content", "a string or an array of objects")


def _limit(body: Mapping[str, Any]) -> int | None:
    return token_limit(body, "max_completion_tokens", "max_tokens")


def _texts(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part.get("text"), str)]


def _check_options(body: Mapping[str, Any]) -> None:
    check_choices(body)
    wanted = body.get("response_format")
    if wanted is not None:
        _check_format(wanted)


def _check_format(wanted: Any) -> None:
    if not isinstance(wanted, dict) or wanted.get("type") not in _FORMATS:
        raise wrong_type("response_format", f"an object whose type is one of {_FORMATS}")
    if wanted["type"] != "json_schema":
        return
    inner = wanted.get("json_schema")
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise wrong_type("response_format.json_schema", "an object with a name")
    if not isinstance(inner.get("schema"), dict):
        raise wrong_type("response_format.json_schema.schema", "a JSON Schema object")


def _document(
    name: str, body: Mapping[str, Any], asked: Sequence[Messages], choices: Sequence[ChatChoice]
) -> dict[str, Any]:
    usage, tier = usage_of(asked, choices)
    document = {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": CREATED,
        "model": body["model"],
        "choices": [choice.to_json(index) for index, choice in enumerate(choices)],
        "usage": usage,
        "system_fingerprint": FINGERPRINT,
    }
    return document if tier is None else {**document, "service_tier": tier}


def _charge(document: Mapping[str, Any], limit: int | None) -> TokenCharge:
    usage = document["usage"]
    reserved = usage["prompt_tokens"] + (limit or 0) * len(document["choices"])
    return TokenCharge(document["model"], reserved, usage["total_tokens"], usage["completion_tokens"])
