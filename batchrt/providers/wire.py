"""The shapes of a chat request and its answer; no I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from pydantic_core import PydanticSerializationError, from_json, to_json

from batchrt.errors import BadRequestError, MalformedResponseError
from batchrt.messages import AIMessage, Message, MessageLike, Usage
from batchrt.providers.failures import error_from, excerpt
from batchrt.providers.reply import Reply

__all__ = ["ChatInput", "ChatRequest", "PromptLike", "read_chat"]

T = TypeVar("T")


class PromptLike(Protocol):
    """What a prompt gives: something that turns into messages."""

    def to_messages(self) -> Sequence[MessageLike]:
        """Return the conversation so far."""


ChatInput: TypeAlias = "str | Message | Sequence[MessageLike] | PromptLike"
"""What a chat model takes: the user's words, a conversation, or a prompt's value."""

_PAIR: Final = 2
_ROLES: Final = {"human": "user", "ai": "assistant"}
"""LCEL's names in `(role, content)` pairs."""


class ChatRequest:
    """Build bodies for `/chat/completions` that differ in their messages alone.

    Args:
        fields: the rest of the body, encoded once.

    Raises:
        ValueError: for a field that JSON cannot carry.
    """

    __slots__ = ("_end", "_start", "_start_of_text")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        members = ",".join(f"{json.dumps(name)}:{_encode(name, fields[name])}" for name in fields)
        self._start = f'{{{members}{"," if members else ""}"messages":'.encode()
        self._start_of_text = self._start + b'[{"role":"user","content":'
        self._end = b"}]}"

    def body(self, value: ChatInput) -> bytes:
        """Return the request's body for one input.

        Raises:
            BadRequestError: for messages that the API has no form for; `param` says which.
        """
        if isinstance(value, str):
            try:
                return self._start_of_text + to_json(value) + self._end
            except (PydanticSerializationError, UnicodeError):
                raise _unspeakable([{"content": value}]) from None
        messages = [_on_the_wire(message, i) for i, message in enumerate(_conversation(value))]
        if not messages:
            raise _bad("messages", "a chat needs at least one message, and this is an empty list")
        try:
            return self._start + to_json(messages) + b"}"
        except (PydanticSerializationError, UnicodeError):
            raise _unspeakable(messages) from None


def _encode(name: str, value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"the option {name} cannot be sent as JSON: {error}") from None
    return text


def _conversation(value: object) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Message):
        return (value,)
    to_messages = getattr(value, "to_messages", None)
    if to_messages is not None:
        messages: Sequence[Any] = to_messages()
        return messages
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return value
    kind = type(value).__name__
    raise _bad("messages", f"a chat takes a str, messages or a prompt's value, not {kind}")


def _on_the_wire(message: object, index: int) -> Mapping[str, Any]:
    if isinstance(message, Message):
        return _from_object(message, index)
    if isinstance(message, Mapping):
        if not isinstance(message.get("role"), str):
            raise _bad(f"messages[{index}].role", "a message's dict needs a role, a string")
        return message
    if isinstance(message, tuple) and len(message) == _PAIR and isinstance(message[0], str):
        role, content = message
        return {"role": _ROLES.get(role, role), "content": _content(content, index)}
    raise _bad(
        f"messages[{index}]",
        f"a message is a Message, a dict or a (role, content) tuple, not {type(message).__name__}",
    )


def _from_object(message: Message, index: int) -> dict[str, Any]:
    wire = {"role": message.role, "content": _content(message.content, index)}
    if message.name is not None:
        wire["name"] = message.name
    if isinstance(message, AIMessage):
        if message.refusal is not None:
            wire["refusal"] = message.refusal
        if message.tool_calls:
            wire["tool_calls"] = list(message.tool_calls)
    return wire


def _content(content: object, index: int) -> object:
    if content is None or isinstance(content, str | list | tuple):
        return content
    kind = type(content).__name__
    message = f"a message's content is a str, a list of parts or None, not {kind}"
    raise _bad(f"messages[{index}].content", message)


def _unspeakable(messages: Sequence[Mapping[str, Any]]) -> BadRequestError:
    """Return the error that says which message cannot be encoded, and why."""
    for index, message in enumerate(messages):
        try:
            json.dumps(message, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            code = f"U+{ord(error.object[error.start]):04X}"
            text = message.get("content")
            place = text.find(error.object[error.start]) if isinstance(text, str) else -1
            where = f" at position {place}" if place >= 0 else ""
            return _bad(
                f"messages[{index}].content",
                f"the text holds half a surrogate pair ({code}){where}, which UTF-8 cannot carry; "
                "clean it with text.encode('utf-8', 'replace').decode()",
            )
        except (TypeError, ValueError) as error:
            return _bad(f"messages[{index}]", f"the message cannot be sent as JSON: {error}")
    return _bad("messages", "the messages cannot be sent as JSON")


def _bad(param: str, message: str) -> BadRequestError:
    return BadRequestError(message, param=param)


def _json(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        # Models cut a character in two, which servers send as a lone \ud83d: the standard library
        # takes that, and nobody wants to pay for the answer again.
        if b"\\ud" not in body.lower():
            raise
        return json.loads(body)


def read_chat(reply: Reply, secrets: Sequence[str], wall: Callable[[], float]) -> AIMessage:
    """Return the message in a successful `reply`; for `secrets` and `wall` see `error_from`.

    Raises:
        MalformedResponseError: if it is not JSON or not of the API's shape; says what is missing.
        ProviderError: if the body holds an error instead, as some proxies have it.
    """
    try:
        data = _json(reply.body)
    except ValueError as error:
        raise _malformed(f"is not JSON: {error}", reply, secrets) from None
    if not isinstance(data, dict):
        raise _malformed("is no JSON object", reply, secrets)
    if data.get("error"):
        raise error_from(reply, secrets, wall)
    try:
        return _read_message(data, reply)
    except _ShapeError as error:
        raise _malformed(str(error), reply, secrets) from None


class _ShapeError(Exception):
    """Say which part of an answer is missing or of the wrong type."""


def _read_message(data: dict[str, Any], reply: Reply) -> AIMessage:
    choice = _first_choice(data)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise _ShapeError("has no object choices[0].message")
    content = message.get("content")
    tool_calls = _typed(message, "message.tool_calls", list) or ()
    refusal = _typed(message, "message.refusal", str)
    if content is None:
        if "content" not in message and not tool_calls and refusal is None:
            raise _ShapeError("has no choices[0].message.content")
    elif not isinstance(content, str) and not _is_parts(content):
        raise _ShapeError("has a choices[0].message.content that is neither text nor null")
    model = data.get("model")
    return AIMessage(
        content,
        refusal=refusal,
        finish_reason=_typed(choice, "finish_reason", str),
        usage=_read_usage(data.get("usage")),
        model=model if isinstance(model, str) else None,
        request_id=reply.request_id,
        tool_calls=tool_calls,
    )


def _first_choice(data: dict[str, Any]) -> dict[str, Any]:
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _ShapeError("has no choices" if not choices else "has choices that are no list")
    for choice in choices:
        if not isinstance(choice, dict):
            raise _ShapeError("has a choice that is no object")
        if choice.get("index", 0) == 0:
            return choice
    raise _ShapeError("has no choice of index 0")


def _typed(holder: dict[str, Any], path: str, kind: type[T]) -> T | None:
    value = holder.get(path.rpartition(".")[2])
    if value is None or isinstance(value, kind):
        return value
    raise _ShapeError(f"has a choices[0].{path} that is no {kind.__name__}")


def _is_parts(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(part, dict) for part in content)


def _read_usage(usage: object) -> Usage | None:
    # Counts are a courtesy: an answer that was paid for is not thrown away for a wrong one.
    if not isinstance(usage, dict):
        return None
    get = usage.get
    counts = (get("prompt_tokens"), get("completion_tokens", 0), get("total_tokens"))
    entered, made, total = (n if type(n) is int and n >= 0 else None for n in counts)
    if entered is None or made is None:
        return None
    return Usage(entered, made, entered + made if total is None else total)


def _malformed(what: str, reply: Reply, secrets: Sequence[str]) -> MalformedResponseError:
    shown = excerpt(reply.body, secrets)
    return MalformedResponseError(
        f"the answer {what}; it begins: {shown}" if shown else f"the answer {what}: it is empty",
        status=reply.status,
        request_id=reply.request_id,
    )
