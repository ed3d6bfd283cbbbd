"""Prompts: templates that turn a row's fields into text or messages for a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, TypeAlias, cast

from batchrt.errors import MissingFieldError
from batchrt.messages import (
    AIMessage,
    HumanMessage,
    Message,
    MessageLike,
    SystemMessage,
    text_of_content,
)
from batchrt.runnables.base import Out, Runnable
from batchrt.runnables.description import Description, described_prompt
from batchrt.runnables.templates import Fields, Fill, Template, compile_content
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.sync_callbacks import check_sync, checked_sync

__all__ = [
    "ChatPromptTemplate",
    "ChatPromptValue",
    "MessagesPlaceholder",
    "PromptTemplate",
    "PromptValue",
    "StringPromptValue",
]


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
    role = _ROLES.get(role, role)
    return f"{_SPEAKERS.get(role, role)}: {text_of_content(content)}"


class _Prompt(Runnable[Any, Out]):
    """Fill an item's fields into templates inline; the base of both kinds of prompts."""

    def __init__(
        self,
        fields: Iterable[str],
        partial_variables: Mapping[str, Any] | None,
        input_variables: Sequence[str] | None,
        name: str | None,
        optional: Iterable[str] = (),
    ) -> None:
        self.name: str | None = name
        self._optional: frozenset[str] = frozenset(optional)
        self.partial_variables: dict[str, Any] = dict(partial_variables or {})
        for field, value in self.partial_variables.items():
            if callable(value):
                check_sync(f"the partial variable {field!r}", value)
        self.input_variables: tuple[str, ...] = tuple(sorted({*fields} - self.partial_variables.keys()))
        if input_variables is not None and set(input_variables) != set(self.input_variables):
            raise ValueError(
                f"the input_variables are {', '.join(self.input_variables) or 'none'}, by the template, "
                f"and not {', '.join(input_variables) or 'none'}; they may be left out"
            )

    def _takes(self, keyword: str) -> bool:
        return keyword in self.input_variables or keyword in self.partial_variables

    def _keyword_hint(self, keyword: str) -> str:  # noqa: ARG002
        return f"its fields are {', '.join(self.input_variables) or '(none)'}"

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        given = {**self.partial_variables, **(kwargs or {})}
        return described_prompt(self, self._build(kwargs or {}), given, self._optional)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        fill, given = self._fill, self._partial_fields(kwargs)

        def call(value: Any, strand: Strand) -> Any:
            fields = value if type(value) is dict else self._fields(value, strand.item.index)
            if given is not None:
                fields = {**given(), **fields}
            try:
                return fill(fields)
            except KeyError as error:
                raise self._missing(error, fields, strand.item.index) from None
            except (TypeError, ValueError) as error:
                error.add_note(f"{self.get_name()} could not be filled with item {strand.item.index}")
                raise

        return Step(call, inline=True)

    def _partial_fields(self, kwargs: Mapping[str, Any]) -> Callable[[], dict[str, Any]] | None:
        """Return a function that returns the partial variables, with functions among them called anew."""
        given = {**self.partial_variables, **kwargs}
        functions = {key: value for key, value in self.partial_variables.items() if callable(value)}
        if not given:
            return None
        if not functions:
            return lambda: given

        def call() -> dict[str, Any]:
            values = {
                key: checked_sync(f"the partial variable {key!r}", function())
                for key, function in functions.items()
            }
            return {**given, **values, **kwargs}

        return call

    def _fill(self, fields: Fields) -> Any:
        raise NotImplementedError

    def _fields(self, value: Any, row: int) -> Fields:
        if isinstance(value, Mapping):
            return cast("Fields", value)
        if len(self.input_variables) == 1:
            return {self.input_variables[0]: value}
        raise TypeError(
            f"{self.get_name()} wants a dict with the fields {', '.join(self.input_variables) or '(none)'}, "
            f"and item {row} is of type {type(value).__name__}"
        )

    def _missing(self, error: KeyError, fields: Fields, row: int) -> Exception:
        missing = [name for name in self.input_variables if name not in fields]
        if not missing:
            return error  # raised while a value was formatted
        available = tuple(map(str, fields))
        return MissingFieldError(
            f"{self.get_name()} needs the field{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}, "
            f"which item {row} does not have; it has {', '.join(map(repr, available)) or 'none'}",
            field=missing[0],
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


class PromptTemplate(_Prompt[StringPromptValue]):
    """Fill a text with a row's fields: `PromptTemplate.from_template("Translate: {text}")`.

    The input is a dict or, if there is only one field, its value. See `Template` for the syntax of fields.

    Args:
        template: the text.
        input_variables: the fields that a row must have; only checked, since the template determines them.
        partial_variables: fields given beforehand, which a row may override. A function is called for
            each item.
        name: for messages.
        columns: known names of the rows' columns, which may stand in braces with any characters:
            `{Q1: How?}`.

    Raises:
        ValueError: the template is invalid, or its fields are not `input_variables`.
        MissingFieldError: during a run; names the field and the item that lacks it.
    """

    def __init__(
        self,
        template: str,
        *,
        input_variables: Sequence[str] | None = None,
        partial_variables: Mapping[str, Any] | None = None,
        name: str | None = None,
        columns: Collection[str] = (),
    ) -> None:
        self._columns = columns
        self._template = Template(template, columns)
        self.template: str = template
        super().__init__(self._template.fields, partial_variables, input_variables, name)

    @classmethod
    def from_template(
        cls, template: str, *, partial_variables: Mapping[str, Any] | None = None
    ) -> PromptTemplate:
        """Return a prompt for `template`, with some of its fields already given."""
        return cls(template, partial_variables=partial_variables)

    def partial(self, **fields: Any) -> PromptTemplate:
        """Return this with `fields` already given; a function is called for each item."""
        given = {**self.partial_variables, **fields}
        return PromptTemplate(self.template, partial_variables=given, name=self.name, columns=self._columns)

    def _fill(self, fields: Fields) -> StringPromptValue:
        return StringPromptValue(self._template.fill(fields))


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


_ROLES: Final = {
    "system": "system",
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
    "developer": "developer",
    "tool": "tool",
}
"""LCEL's and the API's names of the roles, with the API's."""

_CLASSES: Final = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
_CLASS_ROLES: Final = {kind: role for role, kind in _CLASSES.items()}

_Part: TypeAlias = Callable[[Fields, list[MessageLike]], None]
"""Appends one of a prompt's messages, filled with a row, to a list."""


class ChatPromptTemplate(_Prompt[ChatPromptValue]):
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
    wire_role = _CLASS_ROLES.get(role) or _ROLES.get(role)
    if wire_role is None:
        raise ValueError(f"there is no role {role!r}; the roles are {', '.join(_ROLES)}, placeholder")
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
