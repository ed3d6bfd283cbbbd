"""Message prompts: the templates of single messages, and placeholders for several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, Self, TypeAlias

from batchrt.messages import AIMessage, HumanMessage, Message, MessageLike, SystemMessage
from batchrt.runnables.examples import SelectedExamples
from batchrt.runnables.foreign import adopted_message
from batchrt.runnables.prompt_values import ROLES
from batchrt.runnables.prompts import PromptTemplate
from batchrt.runnables.templates import Fields, Fill, compile_content

__all__ = [
    "AIMessagePromptTemplate",
    "HumanMessagePromptTemplate",
    "MessagePart",
    "MessagePromptTemplate",
    "MessagesPlaceholder",
    "SystemMessagePromptTemplate",
    "compile_message",
    "is_role",
    "optional_field",
]


@dataclass(frozen=True, slots=True)
class MessagesPlaceholder:
    """Stand for a list of messages that one of the input's fields holds.

    Attributes:
        variable_name: the field. It holds message objects, the API's dicts, `(role, text)` pairs, or strings
            for human messages; none of them is a template.
        optional: a row without the field has no messages here.
        n_messages: take only the last `n_messages`.
    """

    variable_name: str
    _: KW_ONLY
    optional: bool = False
    n_messages: int | None = None

    def __post_init__(self) -> None:
        if self.n_messages is not None and self.n_messages < 1:
            raise ValueError(f"n_messages must be at least 1, not {self.n_messages}; None means all")


_CLASSES: Final = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
_CLASS_ROLES: Final = {kind: role for role, kind in _CLASSES.items()}

MessagePart: TypeAlias = Callable[[Fields, list[MessageLike]], None]
"""Appends one of a prompt's messages, filled with a row, to a list."""


class MessagePromptTemplate:
    """Hold the template of one message, as the classes that follow do for their roles.

    Args:
        prompt: a text with fields, a list of content parts, or a `PromptTemplate`.
        role: as in `ChatPromptTemplate.from_messages`.
    """

    role: str = ""

    def __init__(self, prompt: Any, *, role: str = "") -> None:
        given = prompt.partial_variables if isinstance(prompt, PromptTemplate) else {}
        self.given: Mapping[str, Any] = given
        self.content: Any = prompt.template if isinstance(prompt, PromptTemplate) else prompt
        self.role = role or self.role

    @classmethod
    def from_template(cls, template: Any) -> Self:
        """Return the template of a message with this content."""
        return cls(template)

    def format(self, **fields: Any) -> Message:
        """Return the filled message."""
        part, _ = compile_message((self.role, self.content))
        messages: list[MessageLike] = []
        part({**self.given, **fields}, messages)
        (message,) = messages
        assert isinstance(message, Message)
        return message


class SystemMessagePromptTemplate(MessagePromptTemplate):
    """Hold the template of a system message; a `("system", …)` pair is the same."""

    role = "system"


class HumanMessagePromptTemplate(MessagePromptTemplate):
    """Hold the template of a user's message; a `("human", …)` pair is the same."""

    role = "human"


class AIMessagePromptTemplate(MessagePromptTemplate):
    """Hold the template of a model's message; an `("ai", …)` pair is the same."""

    role = "ai"


def compile_message(message: Any, columns: Collection[str] = ()) -> tuple[MessagePart, tuple[str, ...]]:
    """Return a function that appends this message to a list, and the fields it needs."""
    match message:
        case MessagesPlaceholder():
            compiled = _placeholder(message)
        case SelectedExamples():
            compiled = _chosen(message)
        case Message():
            compiled = (lambda _fields, messages: messages.append(message)), ()
        case str():
            compiled = _templated("human", message, columns)
        case {"role": role, "content": content} if len(message) == 2:  # noqa: PLR2004
            compiled = _templated(role, content, columns)
        case ["placeholder", field]:
            compiled = _placeholder(_placeholder_of(field))
        case [role, template]:
            compiled = _templated(role, template, columns)
        case _:
            raise TypeError(
                "a message must be a (role, template) pair, a dict of role and content, a message or a "
                f"string, not {message!r}"
            )
    return compiled


def _templated(role: Any, content: Any, columns: Collection[str]) -> tuple[MessagePart, tuple[str, ...]]:
    make = _maker(role)
    if isinstance(content, list | tuple):
        content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    elif not isinstance(content, str):
        raise TypeError(f"a message's template must be a text or a list of parts, not {content!r}")
    fill, names = compile_content(content, columns)
    if not names and isinstance(content, str):
        message = make(fill({}))
        return (lambda _fields, messages: messages.append(message)), ()
    return _adding(make, fill), names


def _adding(make: Callable[[Any], Message], fill: Fill) -> MessagePart:
    def add(fields: Fields, messages: list[MessageLike]) -> None:
        messages.append(make(fill(fields)))

    return add


def _maker(role: Any) -> Callable[[Any], Message]:
    """Return a function that makes a message of this role or class from its content."""
    wire_role = _CLASS_ROLES.get(role) or ROLES.get(role)
    if wire_role is None:
        raise ValueError(f"there is no role {role!r}; the roles are {', '.join(ROLES)}, placeholder")
    return _CLASSES.get(wire_role) or (lambda content: Message(wire_role, content))


def is_role(role: Any) -> bool:
    """Whether `role` may be the first of a pair in a chat prompt's messages."""
    return isinstance(role, str | type) and (role in _CLASS_ROLES or role in ROLES or role == "placeholder")


def _chosen(selected: SelectedExamples) -> tuple[MessagePart, tuple[str, ...]]:
    def add(fields: Fields, messages: list[MessageLike]) -> None:
        for example in fields[selected.key]:
            messages.extend(example.to_messages())

    return add, ()


def _placeholder_of(field: Any) -> MessagesPlaceholder:
    """Return the placeholder for LCEL's `"{name}"` (optional) or `["{name}", is_optional]`."""
    name, optional = field if isinstance(field, list | tuple) and len(field) == 2 else (field, True)  # noqa: PLR2004
    if not (isinstance(name, str) and name.startswith("{") and name.endswith("}")):
        raise ValueError(f"a placeholder is a field's name in braces, such as '{{history}}', not {name!r}")
    return MessagesPlaceholder(name[1:-1], optional=bool(optional))


def optional_field(message: Any) -> str | None:
    """Return the field whose messages a placeholder stands for; `None` if `message` is no placeholder."""
    match message:
        case ["placeholder", field]:
            return _placeholder_of(field).variable_name
        case MessagesPlaceholder():
            return message.variable_name
    return None


def _placeholder(placeholder: MessagesPlaceholder) -> tuple[MessagePart, tuple[str, ...]]:
    name, last = placeholder.variable_name, placeholder.n_messages or 0

    def add(fields: Fields, messages: list[MessageLike]) -> None:
        value = fields.get(name, ()) if placeholder.optional else fields[name]
        if not isinstance(value, list | tuple):
            raise TypeError(f"the field {name!r} must hold a list of messages, not {type(value).__name__}")
        messages.extend(map(_as_message, value[-last:]))

    return add, () if placeholder.optional else (name,)


def _as_message(message: Any) -> MessageLike:
    match message:
        case Message() | Mapping():
            return message
        case str():
            return HumanMessage(message)
        case [role, content]:
            return _maker(role)(content)
    if (foreign := adopted_message(message)) is not None:
        return foreign
    raise TypeError(f"a message must be a message, a dict, a (role, text) pair or a string, not {message!r}")
