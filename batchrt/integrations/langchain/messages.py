"""Messages of LangChain's as ours, and ours as LangChain's, without loss.

What one side has no field for travels beside the other's fields: LangChain's ids, `additional_kwargs`,
content blocks and the like in `extra` of a `LangChainMessage`, ours in `response_metadata["batchrt"]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeAlias, cast

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.utils import convert_to_openai_messages
from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue

from batchrt import messages as ours
from batchrt.runnables.prompt_values import ChatPromptValue as OurChatValue
from batchrt.runnables.prompt_values import PromptValue as OurValue

__all__ = [
    "LangChainAIMessage",
    "LangChainMessage",
    "LangChainToolMessage",
    "langchain_value",
    "message_from_langchain",
    "message_to_langchain",
    "messages_from_langchain",
    "messages_to_langchain",
]


_MARK: Final = "batchrt"
"""The key of `response_metadata` under which fields of ours travel."""
_OPENAI_ROLE: Final = "__openai_role__"
"""The key of `additional_kwargs` under which langchain-openai keeps the role `developer`."""


@dataclass(frozen=True, slots=True)
class LangChainMessage(ours.Message):
    """Hold a message of LangChain's.

    Attributes:
        kind: LangChain's class.
        extra: its fields as they are: `id`, `additional_kwargs`, `tool_call_id` …
    """

    kind: type[BaseMessage] = field(default=HumanMessage, kw_only=True)
    extra: Mapping[str, Any] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, slots=True)
class LangChainToolMessage(ours.ToolMessage):
    """Hold a tool's result in LangChain's form; see `LangChainMessage`."""

    kind: type[BaseMessage] = field(default=ToolMessage, kw_only=True)
    extra: Mapping[str, Any] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, slots=True, init=False)
class LangChainAIMessage(ours.AIMessage):
    """Hold a model's answer in LangChain's form; see `LangChainMessage`."""

    kind: type[BaseMessage] = field(default=AIMessage, kw_only=True)
    extra: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __init__(
        self,
        content: ours.Content = "",
        *,
        kind: type[BaseMessage] = AIMessage,
        extra: Mapping[str, Any] | None = None,
        **facts: Any,
    ) -> None:
        ours.AIMessage.__init__(self, content, **facts)
        object.__setattr__(self, "kind", kind)  # the class is frozen
        object.__setattr__(self, "extra", extra or {})


Carried: TypeAlias = LangChainMessage | LangChainToolMessage | LangChainAIMessage


def messages_from_langchain(messages: Iterable[BaseMessage]) -> list[ours.Message]:
    """Return LangChain's messages as ours."""
    return [message_from_langchain(message) for message in messages]


def messages_to_langchain(messages: Iterable[ours.MessageLike]) -> list[BaseMessage]:
    """Return our messages, dicts of the API or pairs as LangChain's."""
    return [message_to_langchain(message) for message in messages]


def message_from_langchain(message: BaseMessage) -> ours.Message:
    """Return a message of LangChain's as ours: its content and tool calls in the API's form.

    A message that says no more than one of ours is a plain one; otherwise it is a `LangChainMessage` (or
    `LangChainAIMessage`), from which `message_to_langchain` makes an equal message again.
    """
    marked = message.response_metadata.get(_MARK)
    if marked is not None:
        return _unmarked(marked)
    wire: dict[str, Any] = _wire(message)
    basic: dict[str, Any] = {"content": wire.get("content"), "name": message.name}
    given = {name: getattr(message, name) for name in message.model_fields_set if name != "type"}
    if isinstance(message, AIMessage):
        facts = _facts(message, wire)
        plain: ours.Message = ours.AIMessage(**basic, **facts)
        carried: ours.Message = LangChainAIMessage(**basic, **facts, kind=type(message), extra=given)
    elif isinstance(message, ToolMessage):
        plain = ours.ToolMessage(**basic, tool_call_id=message.tool_call_id)
        carried = LangChainToolMessage(
            **basic, tool_call_id=message.tool_call_id, kind=type(message), extra=given
        )
    else:
        role = str(wire["role"])
        kind = {"user": ours.HumanMessage, "system": ours.SystemMessage}.get(role)
        plain = ours.Message(role, **basic) if kind is None else kind(**basic)
        carried = LangChainMessage(role, **basic, kind=type(message), extra=given)
    return plain if _converted(plain) == message else carried


def message_to_langchain(message: ours.MessageLike) -> BaseMessage:
    """Return a message, a dict of the API or a `(role, content)` pair as LangChain's."""
    if isinstance(message, LangChainMessage | LangChainToolMessage | LangChainAIMessage):
        return _uncarried(message)
    if isinstance(message, Mapping):
        return _from_dict(message)
    if not isinstance(message, ours.Message):
        role, content = message
        return _converted(ours.Message(_ROLES.get(role, role), content))
    converted = _converted(message)
    if message_from_langchain(converted) == message:
        return converted
    values = {each.name: getattr(message, each.name) for each in fields(message)}
    converted.response_metadata[_MARK] = {"class": type(message).__name__, **_jsonable(values)}
    return converted


_ROLES: Final = {"human": "user", "ai": "assistant"}


def _wire(message: BaseMessage) -> dict[str, Any]:
    """Return the API's form of a message."""
    try:
        wire: Any = convert_to_openai_messages(message)
    except ValueError:  # a kind of message or of content block that the API does not have
        wire = {"role": message.type, "content": message.content}
    if isinstance(wire, list):  # a message of tool results is one message for each
        wire = wire[0] if wire else {"role": "user", "content": ""}
    role = message.additional_kwargs.get(_OPENAI_ROLE)
    return {**wire, "role": role or wire["role"]}


def _facts(message: AIMessage, wire: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a model's answer that ours has."""
    metadata, more = message.response_metadata, message.additional_kwargs
    return {
        "refusal": more.get("refusal"),
        "finish_reason": metadata.get("finish_reason"),
        "usage": _usage(message),
        "model": metadata.get("model_name"),
        "request_id": metadata.get("request_id"),
        "raw_tool_calls": wire.get("tool_calls") or (),
        "reasoning": more.get("reasoning_content"),
        "logprobs": metadata.get("logprobs") or None,
    }


def _usage(message: AIMessage) -> ours.Usage | None:
    usage = message.usage_metadata
    if usage is None:
        return None
    given, made = usage.get("input_token_details") or {}, usage.get("output_token_details") or {}
    return ours.Usage(
        usage["input_tokens"],
        usage["output_tokens"],
        usage["total_tokens"],
        cached_input_tokens=given.get("cache_read") or 0,
        cache_write_tokens=given.get("cache_creation") or 0,
        reasoning_tokens=made.get("reasoning") or 0,
        input_audio_tokens=given.get("audio") or 0,
        output_audio_tokens=made.get("audio") or 0,
    )


def _converted(message: ours.Message) -> BaseMessage:
    """Return LangChain's message for one of ours, without the fields that it has no place for."""
    content: Any = message.content if isinstance(message.content, str) else list(message.content or ())
    content = "" if message.content is None else content
    named: dict[str, Any] = {} if message.name is None else {"name": message.name}
    if isinstance(message, ours.AIMessageChunk):
        return _chunk(message, {"content": content, **named})
    if isinstance(message, ours.AIMessage):
        return AIMessage(content=content, **named, **_answer(message))
    return _of_role(message, {"content": content, **named})


def _of_role(message: ours.Message, basic: dict[str, Any]) -> BaseMessage:
    role = message.role
    if role == "tool":
        call = message.tool_call_id if isinstance(message, ours.ToolMessage) else ""
        return ToolMessage(tool_call_id=call, **basic)
    if role == "developer":
        return SystemMessage(additional_kwargs={_OPENAI_ROLE: role}, **basic)
    kind = _KINDS.get(role)
    return ChatMessage(role=role, **basic) if kind is None else kind(**basic)


_KINDS: Final[Mapping[str, type[BaseMessage]]] = {
    "user": HumanMessage,
    "system": SystemMessage,
    "assistant": AIMessage,
}


def _answer(message: ours.AIMessage) -> dict[str, Any]:
    """Return the fields of LangChain's `AIMessage` for an answer."""
    metadata = {
        "finish_reason": message.finish_reason,
        "model_name": message.model,
        "request_id": message.request_id,
        "logprobs": message.logprobs,
    }
    more = {"refusal": message.refusal, "reasoning_content": message.reasoning}
    calls, invalid = _tool_calls(message.raw_tool_calls)
    answer = {
        "response_metadata": {name: value for name, value in metadata.items() if value is not None},
        "additional_kwargs": {name: value for name, value in more.items() if value is not None},
        "tool_calls": calls,
        "invalid_tool_calls": invalid,
        "usage_metadata": None if message.usage is None else usage_metadata(message.usage),
    }
    return {name: value for name, value in answer.items() if value}


def _chunk(message: ours.AIMessageChunk, basic: dict[str, Any]) -> AIMessageChunk:
    """Return LangChain's chunk, such that the sum of a stream's chunks says everything once.

    LangChain joins texts in metadata, so that the names come with the last chunk of an answer alone.
    """
    answer = _answer(message)
    ended = message.finish_reason is not None
    return AIMessageChunk(
        **basic,
        tool_call_chunks=cast("Any", message.tool_call_chunks),
        usage_metadata=answer.get("usage_metadata"),
        response_metadata=answer.get("response_metadata", {}) if ended else {},
        additional_kwargs=answer.get("additional_kwargs", {}),
        chunk_position="last" if ended else None,
    )


def _tool_calls(raw: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    calls, invalid = [], []
    for call in raw:
        try:
            calls.append(parse_tool_call(dict(call), return_id=True))
        except Exception as error:  # noqa: BLE001  of whatever kind: the call goes to the other list
            invalid.append(make_invalid_tool_call(dict(call), str(error)))
    return [call for call in calls if call is not None], invalid


def usage_metadata(usage: ours.Usage) -> dict[str, Any]:
    """Return LangChain's form of a token usage; details that are 0 are left out."""
    given = {
        "cache_read": usage.cached_input_tokens,
        "cache_creation": usage.cache_write_tokens,
        "audio": usage.input_audio_tokens,
    }
    made = {"reasoning": usage.reasoning_tokens, "audio": usage.output_audio_tokens}
    details = {"input_token_details": given, "output_token_details": made}
    counted = {key: {name: count for name, count in each.items() if count} for key, each in details.items()}
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        **{key: each for key, each in counted.items() if each},
    }


def _from_dict(message: Mapping[str, Any]) -> BaseMessage:
    """Return LangChain's message for a dict of the API; further members are `additional_kwargs`."""
    role = _ROLES.get(str(message["role"]), str(message["role"]))
    basic: dict[str, Any] = {"content": message.get("content"), "name": message.get("name")}
    rest = {key: value for key, value in message.items() if key not in ("role", "content", "name")}
    if role == "assistant":
        known = {key: rest.pop(key) for key in ("tool_calls", "refusal") if rest.get(key) is not None}
        known["raw_tool_calls"] = known.pop("tool_calls", ())
        converted = _converted(ours.AIMessage(**basic, **known))
    elif role == "tool":
        text: Any = basic.pop("content")
        identifier = str(rest.pop("tool_call_id", ""))
        return ToolMessage(content=text or "", tool_call_id=identifier, additional_kwargs=rest, **basic)
    else:
        converted = _converted(ours.Message(role, **basic))
    converted.additional_kwargs.update(rest)
    return converted


def _uncarried(message: Carried) -> BaseMessage:
    """Return the message that is carried, with the fields that have been replaced since."""
    original = message.kind(**message.extra)
    again = message_from_langchain(original)
    if again == message:
        return original
    fresh = _converted(message)
    changed = {
        name
        for each, names in _PLACES.items()
        if getattr(again, each, None) != getattr(message, each, None)
        for name in names
    }
    return original.model_copy(update={name: getattr(fresh, name) for name in changed})


_PLACES: Final[Mapping[str, Sequence[str]]] = {
    "content": ("content",),
    "name": ("name",),
    "raw_tool_calls": ("tool_calls", "invalid_tool_calls"),
    "tool_call_id": ("tool_call_id",),
    "usage": ("usage_metadata",),
    **dict.fromkeys(("finish_reason", "model", "request_id", "logprobs"), ("response_metadata",)),
    **dict.fromkeys(("refusal", "reasoning"), ("additional_kwargs",)),
}
"""Our fields, and LangChain's that hold them."""


def _jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    usage = values.get("usage")
    if usage is None:
        return dict(values)
    return {**values, "usage": {each.name: getattr(usage, each.name) for each in fields(usage)}}


def _unmarked(marked: Mapping[str, Any]) -> ours.Message:
    """Return the message of ours that travelled in one of LangChain's."""
    values = {name: value for name, value in marked.items() if name != "class"}
    if values.get("usage") is not None:
        values["usage"] = ours.Usage(**values["usage"])
    kind: type[ours.Message] = getattr(ours, marked["class"])
    return kind(**values)


def langchain_value(value: Any) -> Any:
    """Return an input for a runnable of LangChain's: our messages and prompt values as its own."""
    if isinstance(value, ours.Message):
        return message_to_langchain(value)
    if isinstance(value, OurValue):
        if isinstance(value, OurChatValue):
            return ChatPromptValue(messages=messages_to_langchain(value.messages))
        return StringPromptValue(text=value.to_string())
    if isinstance(value, list) and any(isinstance(each, ours.Message) for each in value):
        return [message_to_langchain(each) if isinstance(each, ours.Message) else each for each in value]
    return value
