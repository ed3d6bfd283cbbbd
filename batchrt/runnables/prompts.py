"""From a row's fields to what is said to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Final, TypeAlias, cast

from batchrt.errors import MissingFieldError
from batchrt.messages import AIMessage, HumanMessage, Message, MessageLike, SystemMessage
from batchrt.runnables.base import Runnable
from batchrt.runtime.run import Step, Strand

__all__ = [
    "ChatPromptTemplate",
    "ChatPromptValue",
    "MessagesPlaceholder",
    "PromptTemplate",
    "PromptValue",
    "StringPromptValue",
]

Fields: TypeAlias = "Mapping[str, Any]"


class PromptValue:
    """A filled prompt, to be had as text or as messages."""

    __slots__ = ()

    def to_string(self) -> str:
        """Return it as one text."""
        raise NotImplementedError

    def to_messages(self) -> list[MessageLike]:
        """Return it as messages."""
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
        """Return the messages as lines, each with its role."""
        return "\n".join(f"{role}: {content}" for role, content in map(_parts, self.messages))

    def to_messages(self) -> list[MessageLike]:
        """Return the messages."""
        return list(self.messages)


def _parts(message: MessageLike) -> tuple[str, Any]:
    if isinstance(message, Message):
        return message.role, message.content
    if isinstance(message, Mapping):
        return str(message.get("role")), message.get("content")
    return message


class _Template:
    """A text with `{fields}`, parsed once."""

    __slots__ = ("_fill", "fields", "text")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a prompt template must be a string, not {type(text).__name__}")
        self.text = text
        pieces = _pieces(text)
        self.fields = tuple(dict.fromkeys(name for _, name in pieces if name is not None))
        self._fill = _plain_fill(pieces) if _is_plain(text) else text.format_map

    def fill(self, fields: Fields) -> str:
        return self._fill(fields)


def _pieces(text: str) -> list[tuple[str, str | None]]:
    """Return the template as (literal, field name after it or None) pairs."""
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(
            f"the prompt template is not valid ({error}): {_excerpt(text)!r}; write {{{{ and }}}} for braces"
        ) from None
    pieces: list[tuple[str, str | None]] = []
    for literal, field, _spec, _conversion in parsed:
        name = None if field is None else field.split(".")[0].split("[")[0]
        if name == "" or (name is not None and name.isdigit()):
            raise ValueError(
                f"the prompt template has a field without a name: {_excerpt(text)!r}; "
                "write {name}, or {{ and }} for braces"
            )
        pieces.append((literal, name))
    return pieces


def _is_plain(text: str) -> bool:
    return all(
        not spec and not conversion and (field is None or field.isidentifier())
        for _, field, spec, conversion in Formatter().parse(text)
    )


def _plain_fill(pieces: list[tuple[str, str | None]]) -> Callable[[Fields], str]:
    def fill(fields: Fields) -> str:
        parts: list[str] = []
        for literal, name in pieces:
            parts.append(literal)
            if name is not None:
                value = fields[name]
                parts.append(value if type(value) is str else format(value))
        return "".join(parts)

    return fill


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…"


_EXCERPT: Final = 60


class _Prompt(Runnable[Any, Any]):
    """What both kinds of prompts share: fields, defaults, and a clear word about what is missing."""

    input_variables: tuple[str, ...]
    partial_variables: Mapping[str, Any]

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        given = {**self.partial_variables, **kwargs}
        fill = self._fill

        def call(value: Any, strand: Strand) -> Any:
            fields = self._fields(value, strand.item.index)
            if given:
                fields = {**given, **fields}
            try:
                return fill(fields)
            except KeyError as error:
                raise self._missing(error, fields, strand.item.index) from None

        return Step(call, inline=True)

    def _fill(self, fields: Fields) -> Any:
        raise NotImplementedError

    def _fields(self, value: Any, row: int) -> Fields:
        if isinstance(value, Mapping):
            return cast("Fields", value)
        open_fields = [name for name in self.input_variables if name not in self.partial_variables]
        if len(open_fields) == 1:
            return {open_fields[0]: value}
        raise TypeError(
            f"{self.get_name()} wants a dict with the fields {', '.join(open_fields) or '(none)'}, "
            f"and item {row} is of type {type(value).__name__}"
        )

    def _missing(self, error: KeyError, fields: Fields, row: int) -> Exception:
        missing = next((name for name in self.input_variables if name not in fields), None)
        if missing is None:
            return error  # a lookup inside a field, such as {row[key]}
        available = tuple(map(str, fields))
        return MissingFieldError(
            f"{self.get_name()} needs the field {missing!r}, which item {row} does not have; "
            f"it has {', '.join(map(repr, available)) or 'none'}",
            field=missing,
            available=available,
        )

    def format(self, **fields: Any) -> str:
        """Return the filled prompt as text.

        Raises:
            MissingFieldError: when a field is missing.
        """
        return cast("PromptValue", self.invoke(fields)).to_string()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.input_variables)})"


class PromptTemplate(_Prompt, Runnable[Any, StringPromptValue]):
    """Fill a text with a row's fields: `PromptTemplate.from_template("Translate: {text}")`.

    The input is a dict, or, where there is only one field, its value. `{{` and `}}` are braces.

    Raises:
        MissingFieldError: names the field and the item that lacks it.
    """

    def __init__(
        self, template: str, *, partial_variables: Mapping[str, Any] | None = None, name: str | None = None
    ) -> None:
        self._template = _Template(template)
        self.template = template
        self.input_variables = self._template.fields
        self.partial_variables = dict(partial_variables or {})
        self.name = name

    @classmethod
    def from_template(cls, template: str, **partial_variables: Any) -> PromptTemplate:
        """Return a prompt for `template`, some of its fields already given."""
        return cls(template, partial_variables=partial_variables)

    def partial(self, **fields: Any) -> PromptTemplate:
        """Return this with `fields` already given."""
        given = {**self.partial_variables, **fields}
        return PromptTemplate(self.template, partial_variables=given, name=self.name)

    def _fill(self, fields: Fields) -> StringPromptValue:
        return StringPromptValue(self._template.fill(fields))


@dataclass(frozen=True, slots=True)
class MessagesPlaceholder:
    """Stand for a list of messages that the input brings along in one of its fields."""

    variable_name: str
    optional: bool = False


_ROLES: Final = {
    "system": "system",
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
    "developer": "developer",
    "tool": "tool",
}
"""LCEL's names for the roles, and the API's."""

_CLASSES: Final = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}

Part: TypeAlias = "Callable[[Fields, list[MessageLike]], None]"


class ChatPromptTemplate(_Prompt, Runnable[Any, ChatPromptValue]):
    """Fill messages with a row's fields.

        ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{question}")])

    Raises:
        MissingFieldError: names the field and the item that lacks it.
    """

    def __init__(
        self,
        messages: Iterable[Any],
        *,
        partial_variables: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        self.messages = tuple(messages)
        self.partial_variables = dict(partial_variables or {})
        self.name = name
        parts = [_part(message) for message in self.messages]
        self._parts: list[Part] = [part for part, _ in parts]
        self.input_variables = tuple(dict.fromkeys(name for _, names in parts for name in names))

    @classmethod
    def from_messages(cls, messages: Iterable[Any]) -> ChatPromptTemplate:
        """Return a prompt for messages.

        Args:
            messages: `(role, template)` pairs with the roles `system`, `human` or `user`, `ai` or
                `assistant`, `developer`, `placeholder`; message objects and dicts, which are taken as
                they are; `MessagesPlaceholder`; a string, which is the human's.
        """
        return cls(messages)

    @classmethod
    def from_template(cls, template: str) -> ChatPromptTemplate:
        """Return a prompt of one human message."""
        return cls([("human", template)])

    def partial(self, **fields: Any) -> ChatPromptTemplate:
        """Return this with `fields` already given."""
        given = {**self.partial_variables, **fields}
        return ChatPromptTemplate(self.messages, partial_variables=given, name=self.name)

    def format_messages(self, **fields: Any) -> list[MessageLike]:
        """Return the filled messages."""
        return cast("ChatPromptValue", self.invoke(fields)).to_messages()

    def _fill(self, fields: Fields) -> ChatPromptValue:
        messages: list[MessageLike] = []
        for part in self._parts:
            part(fields, messages)
        return ChatPromptValue(messages)


def _part(message: Any) -> tuple[Part, tuple[str, ...]]:
    """Return what adds this message to a list, and the fields it needs."""
    if isinstance(message, MessagesPlaceholder):
        return _placeholder(message)
    if isinstance(message, Message | Mapping):
        return (lambda _fields, messages: messages.append(message)), ()
    if isinstance(message, str):
        return _templated("human", message)
    if isinstance(message, tuple | list) and len(message) == 2:  # noqa: PLR2004
        role, template = message
        if role == "placeholder":
            return _placeholder(MessagesPlaceholder(str(template).strip("{}"), optional=True))
        return _templated(role, template)
    raise TypeError(
        f"a message must be a (role, template) pair, a message, a dict or a string, not {message!r}"
    )


def _templated(role: Any, text: Any) -> tuple[Part, tuple[str, ...]]:
    if role not in _ROLES:
        raise ValueError(f"there is no role {role!r}; the roles are {', '.join(_ROLES)}, placeholder")
    template, wire_role = _Template(text), _ROLES[role]
    make: Callable[[str], Message] = _CLASSES.get(wire_role) or (
        lambda content: Message(wire_role, content)
    )

    def add(fields: Fields, messages: list[MessageLike]) -> None:
        messages.append(make(template.fill(fields)))

    return add, template.fields


def _placeholder(placeholder: MessagesPlaceholder) -> tuple[Part, tuple[str, ...]]:
    name = placeholder.variable_name
    if placeholder.optional:
        return (lambda fields, messages: messages.extend(fields.get(name) or ())), ()
    return (lambda fields, messages: messages.extend(fields[name])), (name,)
