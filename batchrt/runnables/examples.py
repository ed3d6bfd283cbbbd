"""Examples in a prompt that a selector chooses for each row."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from batchrt.runnables.prompts import Prompt
    from batchrt.runtime.step import Step

__all__ = ["ExampleSelector", "SelectedExamples"]


class ExampleSelector(Protocol):
    """Choose examples for a row; LangChain's selectors have this method."""

    def select_examples(self, input_variables: dict[str, Any], /) -> Sequence[Mapping[str, Any]]:
        """Return the examples for a row's fields; called in a worker thread, under the run's cap.

        A selector whose `aselect_examples` is a coroutine function is awaited on the event loop instead.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SelectedExamples:
    """Stand for the examples that a selector chooses for a row.

    Attributes:
        selector: chooses them.
        example_prompt: is filled with each of them.
    """

    selector: ExampleSelector
    example_prompt: Prompt[Any]

    @property
    def key(self) -> str:
        """The field under which a prompt's step keeps the filled examples."""
        return f"\0{id(self)}"

    def step(self) -> Step:
        """Return the step from a row's fields to its filled examples."""
        from batchrt.runnables.lambdas import RunnableLambda

        fill = self.example_prompt._step().call
        choose = getattr(self.selector, "aselect_examples", None)
        if not inspect.iscoroutinefunction(choose):
            choose = self.selector.select_examples
        selection = RunnableLambda(choose)._step()

        async def call(fields: Any, strand: Any) -> list[Any]:
            examples = await selection.call(dict(fields), strand)
            return [fill(example, strand) for example in examples]

        return selection._replace(call=call)
