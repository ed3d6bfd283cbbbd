"""Chat messages as JSON: the body of a request, the messages of a response; no I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from pydantic_core import PydanticSerializationError, to_json

from batchrt.errors import BadRequestError, ProviderError
from batchrt.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    Message,
    MessageLike,
    ToolMessage,
    Usage,
)
from batchrt.providers.choices import first_message, ordered_choices, read_message
from batchrt.providers.http.error_mapping import error_from
from batchrt.providers.http.response import Reply
from batchrt.providers.http.secrets import Secrets
from batchrt.providers.request_body import bad_input, encode_members, half_surrogate, most_tokens
from batchrt.providers.response_body import ReportedError, ShapeError, malformed, read_answer, read_usage
from batchrt.runnables.foreign import adopted_message

__all__ = [
    "ChatInput",
    "ChatRequest",
    "Messages",
    "PromptLike",
    "conversation",
    "encode_conversation",
    "read_chat",
    "read_chats",
]


class PromptLike(Protocol):
    """The value of a prompt, which converts to messages."""

    def to_messages(self) -> Sequence[MessageLike]:
        """Return the conversation so far."""


ChatInput: TypeAlias = "str | Message | Sequence[MessageLike] | PromptLike"
"""The input of a chat model: the user's text, a conversation, or a prompt's value."""

_PAIR: Final = 2
_ROLES: Final = {"human": "user", "ai": "assistant"}
"""LCEL's role names in `(role, content)` pairs."""


class ChatRequest:
    """Build bodies for `/chat/completions` that differ only in their messages.

    Attributes:
        start: the beginning of each: all other members, encoded once.
        names: the model's name, and the names of the members.
        most: most tokens of an answer; `None` if no member limits them.

    Raises:
        ValueError: for a field that JSON cannot carry.
    """

    __slots__ = ("_start_of_text", "most", "names", "start")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.names: tuple[str, ...] = (str(fields.get("model")), *sorted(fields))
        self.most: float | None = most_tokens(fields)
        self.start: bytes = encode_members(fields) + b'"messages":'
        self._start_of_text = self.start + _USER

    def body(self, value: ChatInput) -> bytes:
        """Return the request's body for one input.

        Raises:
            BadRequestError: for messages that the API has no form for; `param` says which.
        """
        if isinstance(value, str):
            return self._start_of_text + _text(value) + _END_OF_TEXT + b"}"
        return self.start + _messages(value) + b"}"

    def body_of(self, conversations: Sequence[bytes]) -> bytes:
        """Return the body for encoded conversations: `messages` is a single one, or a list of several."""
        if len(conversations) == 1:
            return self.start + conversations[0] + b"}"
        return self.start + b"[" + b",".join(conversations) + b"]}"


_USER: Final = b'[{"role":"user","content":'
_END_OF_TEXT: Final = b"}]"


def encode_conversation(value: ChatInput) -> bytes:
    """Return the `messages` for one input, as JSON.

    Raises:
        BadRequestError: for messages that the API has no form for; `param` says which.
    """
    return _USER + _text(value) + _END_OF_TEXT if isinstance(value, str) else _messages(value)


def _text(value: str) -> bytes:
    try:
        return to_json(value)
    except (PydanticSerializationError, UnicodeError):
        raise _unencodable([{"content": value}]) from None


def _messages(value: object) -> bytes:
    messages = [_message_json(message, i) for i, message in enumerate(_conversation(value))]
    if not messages:
        raise bad_input("messages", "a chat needs at least one message, and this is an empty list")
    try:
        return to_json(messages)
    except (PydanticSerializationError, UnicodeError):
        raise _unencodable(messages) from None


def conversation(value: ChatInput) -> Sequence[Any]:
    """Return the messages of one input.

    Raises:
        BadRequestError: it is not an input of a chat.
    """
    return [HumanMessage(value)] if isinstance(value, str) else _conversation(value)


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
    if (foreign := adopted_message(value)) is not None:
        return (foreign,)
    kind = type(value).__name__
    raise bad_input("messages", f"a chat takes a str, messages or a prompt's value, not {kind}")


def _message_json(message: object, index: int) -> Mapping[str, Any]:
    if isinstance(message, Message):
        return _from_object(message, index)
    if isinstance(message, Mapping):
        if not isinstance(message.get("role"), str):
            raise bad_input(f"messages[{index}].role", "a message's dict needs a role, a string")
        return message
    if isinstance(message, tuple) and len(message) == _PAIR and isinstance(message[0], str):
        role, content = message
        return {"role": _ROLES.get(role, role), "content": _content(content, index)}
    if (foreign := adopted_message(message)) is not None:
        return _from_object(foreign, index)
    raise bad_input(
        f"messages[{index}]",
        f"a message is a Message, a dict or a (role, content) tuple, not {type(message).__name__}",
    )


def _from_object(message: Message, index: int) -> dict[str, Any]:
    if isinstance(message, AIMessageChunk):  # the sum of a stream's chunks, as a part of the history
        message = message.to_message()
    wire = {"role": message.role, "content": _content(message.content, index)}
    if message.name is not None:
        wire["name"] = message.name
    if isinstance(message, ToolMessage):
        wire["tool_call_id"] = message.tool_call_id
    if isinstance(message, AIMessage):
        if message.refusal is not None:
            wire["refusal"] = message.refusal
        if message.raw_tool_calls:
            wire["tool_calls"] = list(message.raw_tool_calls)
    return wire


def _content(content: object, index: int) -> object:
    if content is None or isinstance(content, str | list | tuple):
        return content
    kind = type(content).__name__
    message = f"a message's content is a str, a list of parts or None, not {kind}"
    raise bad_input(f"messages[{index}].content", message)


def _unencodable(messages: Sequence[Mapping[str, Any]]) -> BadRequestError:
    """Return the error with the message that cannot be encoded, and the reason."""
    for index, message in enumerate(messages):
        try:
            json.dumps(message, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            return half_surrogate(error, message.get("content"), f"messages[{index}].content")
        except (TypeError, ValueError) as error:
            return bad_input(f"messages[{index}]", f"the message cannot be sent as JSON: {error}")
    return bad_input("messages", "the messages cannot be sent as JSON")


def read_chat(reply: Reply, secrets: Secrets, wall: Callable[[], float]) -> AIMessage:
    """Return the message in a successful `reply`; for `secrets` and `wall` see `error_from`.

    Raises:
        MalformedResponseError: it is not JSON or not of the API's shape; the message has the missing member.
        ProviderError: the body holds an error instead, as some proxies send it.
    """

    def read(data: dict[str, Any]) -> AIMessage:
        return first_message(data, reply, read_usage(data.get("usage"), data.get("service_tier")))

    return read_answer(reply, secrets, wall, read)


class Messages(NamedTuple):
    """The messages for a list of conversations, and the tokens of all of them.

    A message that is malformed, or that failed, is replaced by its error.
    """

    messages: list[AIMessage | ProviderError]
    usage: Usage | None


def read_chats(reply: Reply, count: int, secrets: Secrets, wall: Callable[[], float]) -> Messages:
    """Return the messages for `count` conversations, in their order; otherwise as `read_chat`.

    The messages have no `usage` of their own: the response does not attribute its tokens.

    Raises:
        MalformedResponseError: also if there is not one choice for each conversation.
    """

    def read(data: dict[str, Any]) -> Messages:
        messages: list[AIMessage | ProviderError] = []
        for i, choice in enumerate(ordered_choices(data, count, 1)):
            try:
                messages.append(read_message(choice, data, reply, None, i))
            except ShapeError as error:
                messages.append(malformed(str(error), reply, secrets))
            except ReportedError as error:
                messages.append(error_from(reply, secrets, wall, error.said))
        return Messages(messages, read_usage(data.get("usage"), data.get("service_tier")))

    return read_answer(reply, secrets, wall, read)
