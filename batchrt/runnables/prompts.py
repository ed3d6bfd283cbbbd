"""Prompts: templates that turn a row's fields into text or messages for a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from batchrt.errors import MissingFieldError
from batchrt.runnables.base import Runnable
from batchrt.runnables.description import Description, described_prompt
from batchrt.runnables.prompt_values import PromptValue, StringPromptValue
from batchrt.runnables.templates import Fields, Template
from batchrt.runtime.step import Step, StepCall
from batchrt.runtime.strand import Strand
from batchrt.runtime.sync_callbacks import check_sync, checked_sync

if TYPE_CHECKING:
    from batchrt.runnables.examples import SelectedExamples

__all__ = ["Prompt", "PromptTemplate"]

Value = TypeVar("Value", bound=PromptValue, covariant=True)  # noqa: PLC0105  as with `Out`


class Prompt(Runnable[Any, Value]):
    """Fill an item's fields into templates inline; the base of both kinds of prompts."""

    _selected: tuple[SelectedExamples, ...] = ()

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

        def fields_of(value: Any, strand: Strand) -> Fields:
            fields = value if type(value) is dict else self._fields(value, strand.item.index)
            return fields if given is None else {**given(), **fields}

        def call(value: Any, strand: Strand) -> Any:
            fields = fields_of(value, strand)
            try:
                return fill(fields)
            except KeyError as error:
                raise self._missing(error, fields, strand.item.index) from None
            except (TypeError, ValueError) as error:
                error.add_note(f"{self.get_name()} could not be filled with item {strand.item.index}")
                raise

        return Step(call, inline=True) if not self._selected else self._selecting(fields_of, call)

    def _selecting(self, fields_of: StepCall, fill: StepCall) -> Step:
        """Return the step that chooses examples for each item before it is filled."""
        steps = [(selected, selected.step()) for selected in self._selected]

        async def call(value: Any, strand: Strand) -> Any:
            fields = fields_of(value, strand)
            chosen = {selected.key: await step.call(fields, strand) for selected, step in steps}
            return fill({**fields, **chosen}, strand)

        parts = [step for _, step in steps]
        return Step.of(call, parts, direct=all(step.direct for step in parts))

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
        available = tuple(name for name in map(str, fields) if not name.startswith("\0"))
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
        return self.format_prompt(**fields).to_string()

    def format_prompt(self, **fields: Any) -> Value:
        """Return the filled prompt; as with `invoke`."""
        return self.invoke(fields)

    async def aformat(self, **fields: Any) -> str:
        """Return the filled prompt as text."""
        return (await self.aformat_prompt(**fields)).to_string()

    async def aformat_prompt(self, **fields: Any) -> Value:
        """Return the filled prompt; as with `ainvoke`."""
        return await self.ainvoke(fields)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.input_variables)})"


class PromptTemplate(Prompt[StringPromptValue]):
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

    def __add__(self, other: PromptTemplate | str) -> PromptTemplate:
        """Return the prompt of both templates, one after the other."""
        if isinstance(other, str):
            other = PromptTemplate(other, columns=self._columns)
        if not isinstance(other, PromptTemplate) or self._selected or other._selected:
            return NotImplemented
        return PromptTemplate(
            self.template + other.template,
            partial_variables={**self.partial_variables, **other.partial_variables},
            columns=(*self._columns, *other._columns),
        )

    def _with_fields(self, values: Mapping[str, Any]) -> PromptTemplate:
        own = {"template": self.template, "partial_variables": self.partial_variables, "name": self.name}
        return PromptTemplate(**{**own, **values}, columns=self._columns)

    def _fill(self, fields: Fields) -> StringPromptValue:
        return StringPromptValue(self._template.fill(fields))
