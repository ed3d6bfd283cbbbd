"""Chat prompts: templates of messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, TypeAlias

from batchrt.messages import AIMessage, HumanMessage, Message, MessageLike, SystemMessage
from batchrt.runnables.prompt_values import ROLES, ChatPromptValue
from batchrt.runnables.prompts import Prompt
from batchrt.runnables.templates import Fields, Fill, compile_content

__all__ = ["ChatPromptTemplate", "MessagesPlaceholder"]


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

_Part: TypeAlias = Callable[[Fields, list[MessageLike]], None]
"""Appends one of a prompt's messages, filled with a row, to a list."""


class ChatPromptTemplate(Prompt[ChatPromptValue]):
    """Fill messages with a row's fields.

        ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{question}")])

    The arguments are those of `from_messages` and `PromptTemplate`.

    Raises:
        ValueError: a template is invalid, or a role unknown.
        MissingFieldError: during a run; names the field and the item that lacks it.
    """

    def __init__(
        self,
        messages: Iterable[Any],
        *,
        input_variables: Sequence[str] | None = None,
        partial_variables: Mapping[str, Any] | None = None,
        name: str | None = None,
        columns: Collection[str] = (),
    ) -> None:
        self.messages: tuple[Any, ...] = tuple(messages)
        self._columns = columns
        parts = [_part(message, columns) for message in self.messages]
        self._parts = [part for part, _ in parts]
        optional = {field for message in self.messages if (field := _optional_field(message))}
        fields = [field for _, fields in parts for field in fields]
        super().__init__(fields, partial_variables, input_variables, name, optional)

    @classmethod
    def from_messages(cls, messages: Iterable[Any], *, columns: Collection[str] = ()) -> ChatPromptTemplate:
        """Return a prompt for messages.

        Args:
            messages: `(role, template)` pairs or dicts of `role` and `content`, with the roles `system`,
                `human` or `user`, `ai` or `assistant`, `developer`, `tool`, or a message class; a
                template is a text or a list of content parts. A string is a human message. Message
                objects are used unchanged. `MessagesPlaceholder`s, or `("placeholder", "{field}")` for an
                optional one.
            columns: known names of the rows' columns, which may stand in braces with any characters:
                `{Q1: How?}`.
        """
        return cls(messages, columns=columns)

    @classmethod
    def from_template(
        cls, template: str, *, partial_variables: Mapping[str, Any] | None = None
    ) -> ChatPromptTemplate:
        """Return a prompt of one human message."""
        return cls([("human", template)], partial_variables=partial_variables)

    def partial(self, **fields: Any) -> ChatPromptTemplate:
        """Return this with `fields` already given; a function is called for each item."""
        given = {**self.partial_variables, **fields}
        return ChatPromptTemplate(
            self.messages, partial_variables=given, name=self.name, columns=self._columns
        )

    def _takes(self, keyword: str) -> bool:
        return super()._takes(keyword) or keyword in self._optional

    def format_messages(self, **fields: Any) -> list[MessageLike]:
        """Return the filled messages."""
        return self.invoke(fields).to_messages()

    def _fill(self, fields: Fields) -> ChatPromptValue:
        messages: list[MessageLike] = []
        for part in self._parts:
            part(fields, messages)
        return ChatPromptValue(messages)


def _part(message: Any, columns: Collection[str] = ()) -> tuple[_Part, tuple[str, ...]]:
    """Return a function that appends this message to a list, and the fields it needs."""
    match message:
        case MessagesPlaceholder():
            return _placeholder(message)
        case Message():
            return (lambda _fields, messages: messages.append(message)), ()
        case str():
            return _templated("human", message, columns)
        case {"role": role, "content": content} if len(message) == 2:  # noqa: PLR2004
            return _templated(role, content, columns)
        case ["placeholder", field]:
            return _placeholder(_placeholder_of(field))
        case [role, template]:
            return _templated(role, template, columns)
    raise TypeError(
        "a message must be a (role, template) pair, a dict of role and content, a message or a string, "
        f"not {message!r}"
    )


def _templated(role: Any, content: Any, columns: Collection[str]) -> tuple[_Part, tuple[str, ...]]:
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


def _adding(make: Callable[[Any], Message], fill: Fill) -> _Part:
    def add(fields: Fields, messages: list[MessageLike]) -> None:
        messages.append(make(fill(fields)))

    return add


def _maker(role: Any) -> Callable[[Any], Message]:
    """Return a function that makes a message of this role or class from its content."""
    wire_role = _CLASS_ROLES.get(role) or ROLES.get(role)
    if wire_role is None:
        raise ValueError(f"there is no role {role!r}; the roles are {', '.join(ROLES)}, placeholder")
    return _CLASSES.get(wire_role) or (lambda content: Message(wire_role, content))


def _placeholder_of(field: Any) -> MessagesPlaceholder:
    """Return the placeholder for LCEL's `"{name}"` (optional) or `["{name}", is_optional]`."""
    name, optional = field if isinstance(field, list | tuple) and len(field) == 2 else (field, True)  # noqa: PLR2004
    if not (isinstance(name, str) and name.startswith("{") and name.endswith("}")):
        raise ValueError(f"a placeholder is a field's name in braces, such as '{{history}}', not {name!r}")
    return MessagesPlaceholder(name[1:-1], optional=bool(optional))


def _optional_field(message: Any) -> str | None:
    match message:
        case ["placeholder", field]:
            return _placeholder_of(field).variable_name
        case MessagesPlaceholder():
            return message.variable_name
    return None


def _placeholder(placeholder: MessagesPlaceholder) -> tuple[_Part, tuple[str, ...]]:
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
    raise TypeError(f"a message must be a message, a dict, a (role, text) pair or a string, not {message!r}")
