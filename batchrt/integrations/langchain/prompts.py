"""Prompts of LangChain's as ours, and ours as LangChain's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.prompts import (
    AIMessagePromptTemplate,
    BasePromptTemplate,
    ChatMessagePromptTemplate,
    ChatPromptTemplate,
    HumanMessagePromptTemplate,
    MessagesPlaceholder,
    PromptTemplate,
    SystemMessagePromptTemplate,
)
from langchain_core.prompts.image import ImagePromptTemplate

from batchrt.integrations.langchain.messages import message_from_langchain, message_to_langchain
from batchrt.messages import Message
from batchrt.runnables import chat_prompts as ours_chat
from batchrt.runnables import message_prompts as ours_messages
from batchrt.runnables import prompts as ours
from batchrt.runnables.prompt_values import ROLES

__all__ = ["prompt_from_langchain", "prompt_to_langchain"]

_ROLE_OF: Mapping[type[Any], str] = {
    SystemMessagePromptTemplate: "system",
    HumanMessagePromptTemplate: "human",
    AIMessagePromptTemplate: "ai",
}
_LANGCHAIN_ROLE: Mapping[str, str] = {"user": "human", "assistant": "ai", "system": "system"}


def prompt_from_langchain(
    prompt: BasePromptTemplate[Any],
) -> ours.PromptTemplate | ours_chat.ChatPromptTemplate:
    """Return a `PromptTemplate` or `ChatPromptTemplate` of LangChain's as ours.

    The filled prompt is the same for texts and numbers. A value of `None` is empty in ours, and a dict or
    list is JSON, where LangChain writes Python's `str`.

    Raises:
        ValueError: it is of another kind, or its template is not an f-string; leave it as it is then, a step
            of LangChain's.
    """
    if type(prompt) is PromptTemplate:
        return ours.PromptTemplate(
            _text(prompt), partial_variables=prompt.partial_variables, name=prompt.name
        )
    if type(prompt) is ChatPromptTemplate:
        partial = dict(prompt.partial_variables)
        parts = [_part(message, partial) for message in prompt.messages]
        optional = {
            part.variable_name for part in parts if isinstance(part, ours_messages.MessagesPlaceholder)
        }
        kept = {name: value for name, value in partial.items() if name not in optional}
        return ours_chat.ChatPromptTemplate(parts, partial_variables=kept, name=prompt.name)
    raise ValueError(
        f"{type(prompt).__name__} has no counterpart here: use it as it is, as a step of a chain"
    )


def _text(prompt: PromptTemplate) -> str:
    if prompt.template_format != "f-string":
        raise ValueError(
            f"a template in the format {prompt.template_format!r} has no counterpart here: use it as it is, "
            "as a step of a chain"
        )
    return prompt.template


def _part(message: Any, partial: dict[str, Any]) -> Any:
    """Return a part of a chat prompt; the partial variables of its templates are added to `partial`."""
    if isinstance(message, BaseMessage):
        return message_from_langchain(message)
    if isinstance(message, MessagesPlaceholder):
        return ours_messages.MessagesPlaceholder(
            message.variable_name, optional=message.optional, n_messages=message.n_messages
        )
    role = message.role if isinstance(message, ChatMessagePromptTemplate) else _ROLE_OF.get(type(message))
    if role is None or role not in ROLES:
        raise ValueError(f"{type(message).__name__} has no counterpart here: use the prompt as it is")
    inner = message.prompt
    if isinstance(inner, list):
        return role, [_content_part(each, partial) for each in inner]
    partial.update(inner.partial_variables)
    return role, _text(inner)


def _content_part(template: Any, partial: dict[str, Any]) -> dict[str, Any]:
    partial.update(getattr(template, "partial_variables", {}))
    if isinstance(template, PromptTemplate):
        return {"type": "text", "text": _text(template)}
    if isinstance(template, ImagePromptTemplate) and template.template_format == "f-string":
        return {"type": "image_url", "image_url": dict(template.template)}
    raise ValueError(f"{type(template).__name__} has no counterpart here: use the prompt as it is")


def prompt_to_langchain(
    prompt: ours.PromptTemplate | ours_chat.ChatPromptTemplate,
) -> PromptTemplate | ChatPromptTemplate:
    """Return a prompt of ours as LangChain's; see `prompt_from_langchain` for values that are not text.

    Raises:
        ValueError: LangChain has no counterpart, as for a field whose name has a dot.
    """
    if isinstance(prompt, ours.PromptTemplate):
        made: Any = PromptTemplate.from_template(prompt.template, partial_variables=prompt.partial_variables)
    else:
        parts = [_langchain_part(part) for part in prompt.messages]
        made = ChatPromptTemplate(parts, partial_variables=prompt.partial_variables)
    if set(made.input_variables) != set(prompt.input_variables):
        raise ValueError(
            f"LangChain reads the fields {sorted(made.input_variables)} in this prompt, and batchrt "
            f"{sorted(prompt.input_variables)}: use to_langchain, which runs the prompt as it is"
        )
    made.name = prompt.name
    return made  # type: ignore[no-any-return]


def _langchain_part(part: Any) -> Any:
    if isinstance(part, Message):
        return message_to_langchain(part)
    if isinstance(part, ours_messages.MessagesPlaceholder):
        return MessagesPlaceholder(part.variable_name, optional=part.optional, n_messages=part.n_messages)
    match part:
        case str():
            return "human", part
        case {"role": role, "content": content} | [role, content] if isinstance(role, str):
            name = _LANGCHAIN_ROLE.get(ROLES.get(role, role))
            if name is not None:
                return name, content
            if isinstance(content, str):
                return ChatMessagePromptTemplate.from_template(content, role=role)
    raise ValueError(f"{part!r} has no counterpart in LangChain: use to_langchain, which runs it as it is")
