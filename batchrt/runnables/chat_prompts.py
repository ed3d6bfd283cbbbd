"""Chat prompts: templates of several messages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from batchrt.messages import Message, MessageLike
from batchrt.runnables.examples import SelectedExamples
from batchrt.runnables.message_prompts import (
    MessagePromptTemplate,
    MessagesPlaceholder,
    compile_message,
    is_role,
    optional_field,
)
from batchrt.runnables.prompt_values import ChatPromptValue
from batchrt.runnables.prompts import Prompt, PromptTemplate
from batchrt.runnables.templates import Fields

__all__ = ["ChatPromptTemplate"]


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
        messages, inner = _flattened(messages)
        partial_variables = {**inner, **(partial_variables or {})}
        self.messages: tuple[Any, ...] = tuple(messages)
        self._selected = tuple(m for m in self.messages if isinstance(m, SelectedExamples))
        self._columns = columns
        parts = [compile_message(message, columns) for message in self.messages]
        self._parts = [part for part, _ in parts]  # functions, which cannot be pickled
        optional = {field for message in self.messages if (field := optional_field(message))}
        fields = [field for _, fields in parts for field in fields]
        super().__init__(fields, partial_variables, input_variables, name, optional)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_parts"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._parts = [compile_message(message, self._columns)[0] for message in self.messages]

    @classmethod
    def from_messages(cls, messages: Iterable[Any], *, columns: Collection[str] = ()) -> ChatPromptTemplate:
        """Return a prompt for messages.

        Args:
            messages: `(role, template)` pairs or dicts of `role` and `content`, with the roles `system`,
                `human` or `user`, `ai` or `assistant`, `developer`, `tool`, or a message class; a
                template is a text or a list of content parts. A string is a human message. Message
                objects are used unchanged, and the messages of other prompts inserted.
                `MessagesPlaceholder`s, or `("placeholder", "{field}")` for an
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

    async def aformat_messages(self, **fields: Any) -> list[MessageLike]:
        """Return the filled messages."""
        return (await self.ainvoke(fields)).to_messages()

    def __add__(self, other: Any) -> ChatPromptTemplate:
        """Return the prompt of these messages and `other`: a prompt, a message, a list of them, or a text."""
        pair = isinstance(other, tuple) and len(other) == 2 and is_role(other[0])  # noqa: PLR2004
        if isinstance(other, _ADDED) or pair:
            more = [other]
        elif isinstance(other, list | tuple):
            more = list(other)
        else:
            return NotImplemented
        columns = (*self._columns, *getattr(other, "_columns", ()))
        return ChatPromptTemplate([self, *more], columns=columns)

    def _with_fields(self, values: Mapping[str, Any]) -> ChatPromptTemplate:
        own = {"messages": self.messages, "partial_variables": self.partial_variables, "name": self.name}
        return ChatPromptTemplate(**{**own, **values}, columns=self._columns)

    def _fill(self, fields: Fields) -> ChatPromptValue:
        messages: list[MessageLike] = []
        for part in self._parts:
            part(fields, messages)
        return ChatPromptValue(messages)


def _flattened(messages: Iterable[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the messages of all prompts among `messages`, and their partial variables."""
    flat: list[Any] = []
    given: dict[str, Any] = {}
    for message in messages:
        match message:
            case ChatPromptTemplate():
                flat += message.messages
                given |= message.partial_variables
            case MessagePromptTemplate():
                flat.append((message.role, message.content))
                given |= message.given
            case PromptTemplate():
                flat.append(("human", message.template))
                given |= message.partial_variables
            case _:
                flat.append(message)
    return flat, given


_ADDED: Final = (str, Mapping, Message, MessagesPlaceholder, Prompt, MessagePromptTemplate)
"""Types of a single message, or of a prompt, that `+` takes."""
