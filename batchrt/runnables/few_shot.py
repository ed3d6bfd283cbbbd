"""Few-shot prompts: examples for the model, fixed or chosen for each row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from batchrt.runnables.chat_prompts import ChatPromptTemplate
from batchrt.runnables.examples import ExampleSelector, SelectedExamples
from batchrt.runnables.prompt_values import StringPromptValue
from batchrt.runnables.prompts import PromptTemplate
from batchrt.runnables.templates import Fields, Template

__all__ = ["FewShotChatMessagePromptTemplate", "FewShotPromptTemplate"]


_FIELDS: Final = (
    *("example_prompt", "suffix", "examples", "example_selector", "prefix", "example_separator"),
    *("partial_variables", "name"),
)


class FewShotPromptTemplate(PromptTemplate):
    r"""Fill a text that consists of a prefix, examples and a suffix.

    Example:
        FewShotPromptTemplate(
            examples=[{"q": "2+2", "a": "4"}],
            example_prompt=PromptTemplate.from_template("Q: {q}\nA: {a}"),
            suffix="Q: {question}\nA:",
        )

    Args:
        examples: the fields of each example; their texts are no templates.
        example_selector: chooses the examples for each row, in place of `examples`.
        example_prompt: is filled with each example.
        suffix: the template after the examples.
        prefix: the template before them.
        example_separator: stands between prefix, examples and suffix.
        input_variables: as with `PromptTemplate`.
        partial_variables: as with `PromptTemplate`.
        name: for messages.

    Raises:
        ValueError: neither or both of `examples` and `example_selector` are given; or as with
            `PromptTemplate`.
        MissingFieldError: an example lacks a field; during a run, a row does.
    """

    def __init__(
        self,
        *,
        example_prompt: PromptTemplate,
        suffix: str,
        examples: Sequence[Mapping[str, Any]] | None = None,
        example_selector: ExampleSelector | None = None,
        prefix: str = "",
        example_separator: str = "\n\n",
        input_variables: Sequence[str] | None = None,
        partial_variables: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        _check_source(examples, example_selector)
        self.examples: Sequence[Mapping[str, Any]] | None = examples
        self.example_selector: ExampleSelector | None = example_selector
        self.example_prompt: PromptTemplate = example_prompt
        self.prefix: str = prefix
        self.suffix: str = suffix
        self.example_separator: str = example_separator
        filled = (_escaped(text.to_string()) for text in example_prompt.batch(examples or ()))
        pieces = [prefix, *filled, suffix]
        super().__init__(
            example_separator.join(piece for piece in pieces if piece),
            input_variables=input_variables,
            partial_variables=partial_variables,
            name=name,
        )
        if example_selector is not None:
            self._selected = (SelectedExamples(example_selector, example_prompt),)
            self._ends = Template(prefix), Template(suffix)

    def partial(self, **fields: Any) -> FewShotPromptTemplate:
        """Return this with `fields` already given; a function is called for each item."""
        return self._with_fields({"partial_variables": {**self.partial_variables, **fields}})

    def _with_fields(self, values: Mapping[str, Any]) -> FewShotPromptTemplate:
        own = {name: getattr(self, name) for name in _FIELDS}
        return FewShotPromptTemplate(**{**own, **values})

    def _fill(self, fields: Fields) -> StringPromptValue:
        if not self._selected:
            return super()._fill(fields)
        prefix, suffix = (end.fill(fields) for end in self._ends)
        examples = [example.to_string() for example in fields[self._selected[0].key]]
        pieces = [prefix, *examples, suffix]
        return StringPromptValue(self.example_separator.join(piece for piece in pieces if piece))


class FewShotChatMessagePromptTemplate(ChatPromptTemplate):
    """Fill the messages of examples, mostly as a part of another prompt.

    Example:
        examples = FewShotChatMessagePromptTemplate(
            examples=[{"q": "2+2", "a": "4"}],
            example_prompt=ChatPromptTemplate.from_messages([("human", "{q}"), ("ai", "{a}")]),
        )
        ChatPromptTemplate.from_messages([("system", "Calculate."), examples, ("human", "{question}")])

    Args:
        example_prompt: the messages of an example.
        examples: the fields of each example.
        example_selector: chooses the examples for each row, in place of `examples`; it is passed all fields.
        input_variables: the fields that a row must have; only checked where `examples` are given.
        name: for messages.

    Raises:
        ValueError: neither or both of `examples` and `example_selector` are given.
        MissingFieldError: an example lacks a field.
    """

    def __init__(
        self,
        *,
        example_prompt: ChatPromptTemplate,
        examples: Sequence[Mapping[str, Any]] | None = None,
        example_selector: ExampleSelector | None = None,
        input_variables: Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        _check_source(examples, example_selector)
        self.examples: Sequence[Mapping[str, Any]] | None = examples
        self.example_selector: ExampleSelector | None = example_selector
        self.example_prompt: ChatPromptTemplate = example_prompt
        messages: Iterable[Any]
        if example_selector is None:
            filled = example_prompt.batch(examples or ())
            messages = [message for value in filled for message in value.to_messages()]
        else:
            messages = [SelectedExamples(example_selector, example_prompt)]
            input_variables = None  # the selector's, which nothing here knows
        super().__init__(messages, input_variables=input_variables, name=name)


def _check_source(examples: object, selector: object) -> None:
    if (examples is None) == (selector is None):
        raise ValueError("give either examples or an example_selector")


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
