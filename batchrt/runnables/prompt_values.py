"""Prompt values: filled prompts, as text or as messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batchrt.messages import HumanMessage, Message, MessageLike, text_of_content

__all__ = ["ROLES", "ChatPromptValue", "PromptValue", "StringPromptValue"]

ROLES: Final = {
    "system": "system",
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
    "developer": "developer",
    "tool": "tool",
}
"""LCEL's and the API's names of the roles, with the API's."""


class PromptValue:
    """A filled prompt, available as text or as messages."""

    __slots__ = ()

    def to_string(self) -> str:
        """Return the prompt as one string."""
        raise NotImplementedError

    def to_messages(self) -> list[MessageLike]:
        """Return the prompt as messages."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class StringPromptValue(PromptValue):
    """A filled `PromptTemplate`."""

    text: str

    def to_string(self) -> str:
        """Return the text."""
        return self.text

    def to_messages(self) -> list[MessageLike]:
        """Return the text as the user's message."""
        return [HumanMessage(self.text)]


@dataclass(frozen=True, slots=True)
class ChatPromptValue(PromptValue):
    """A filled `ChatPromptTemplate`."""

    messages: Sequence[MessageLike]

    def to_string(self) -> str:
        """Return the messages as lines, each with its speaker's name (`System`, `Human`, `AI`)."""
        return "\n".join(map(_line, self.messages))

    def to_messages(self) -> list[MessageLike]:
        """Return the messages."""
        return list(self.messages)


_SPEAKERS: Final = {"system": "System", "user": "Human", "assistant": "AI", "tool": "Tool"}
"""LCEL's names of the speakers in a text."""


def _line(message: MessageLike) -> str:
    if isinstance(message, Message):
        role, content = message.role, message.content
    elif isinstance(message, Mapping):
        role, content = str(message.get("role")), message.get("content")
    else:
        role, content = message
    role = ROLES.get(role, role)
    return f"{_SPEAKERS.get(role, role)}: {text_of_content(content)}"
