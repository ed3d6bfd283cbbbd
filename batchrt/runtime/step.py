"""A runnable as the runtime sees it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from batchrt.config import RunConfig

if TYPE_CHECKING:
    from batchrt.errors import SpendingLimitError
    from batchrt.runtime.async_input import AsyncInput
    from batchrt.runtime.item import Item
    from batchrt.runtime.strand import Strand

__all__ = ["ListRun", "NewListRun", "Produce", "Step", "StepCall", "Transform"]

StepCall: TypeAlias = "Callable[[Any, Strand], Any]"
"""Carries a value through: gives the output if the step is inline, else an awaitable of it."""

Produce: TypeAlias = "Callable[[Any, Strand], AsyncIterator[Any]]"
"""Gives the chunks of the output for one complete input; see `Step.produce`."""

Transform: TypeAlias = "Callable[[AsyncIterator[Any], Strand], AsyncIterator[Any]]"
"""Gives the chunks of the output for chunks of the input; see `Step.transform`."""


class ListRun(Protocol):
    """A run whose items are lists of its inputs; see `Step.bulk`.

    Attributes:
        ended: the error of the spending limit that ended the run before all lists were sent.
    """

    ended: SpendingLimitError | None

    async def look_at(self, inputs: Iterable[Any]) -> int:
        """Take the inputs in and return their number."""
        ...

    @property
    def pulled(self) -> int:
        """How many inputs were taken in."""
        ...

    def lists(self) -> Iterator[Any]:
        """Yield the lists to send."""
        ...

    def pack(self, inputs: Iterable[Any] | AsyncIterable[Any]) -> Iterator[Any] | AsyncInput:
        """Give lists of `inputs`, pulled as lists are asked for; instead of `look_at` and `lists`."""
        ...

    def end_list(self, index: int, error: Exception | None) -> int:
        """End a list, give `error` to its inputs without an outcome, and return how many inputs it has."""
        ...

    def unsettled(self, index: int) -> int:
        """Return how many inputs of a list under way have no outcome yet."""
        ...

    @property
    def step(self) -> Step:
        """The step that sends one of them."""
        ...


class NewListRun(Protocol):
    """Make the `ListRun` of inputs that are all known; each input's outcome is given to `put`."""

    def __call__(
        self,
        config: RunConfig,
        put: Callable[[Item, Any, Exception | None], object],
        *,
        fail_fast: bool,
        parent: Item | None,
        before: StepCall | None = None,
    ) -> ListRun:
        """Return the run; no input has been looked at yet. `before` is inline, and applied to each input."""
        ...


class Step(NamedTuple):
    """A runnable as the runtime sees it.

    Attributes:
        call: see `StepCall`.
        inline: nothing in it waits: no slot, no task, no thread. It may use the index of the strand's item.
        direct: it may be driven without an event loop, by a run that is `direct`.
        lists: how long the longest list is that items may be sent in, of all steps in it; 0 if none
            takes lists.
        meets: parts of a single item may come to such a step at the same time.
        bulk: makes a run of lists, if the step does nothing but take lists, or inline work before.
        produce: streams the output for one complete input: a model, a generator function of one input.
            Pulls of one iterator do not overlap, and its consumer always closes it, by `aclose()`.
        transform: streams the output while chunks of the input come, beginning with the first. It pulls
            chunks of its input as it needs them, and its iterator is closed like that of `produce`. A step
            with neither gets its input added up, and its `call`'s output is the one chunk.
    """

    call: StepCall
    inline: bool = False
    direct: bool = False
    lists: int = 0
    meets: bool = False
    bulk: NewListRun | None = None
    produce: Produce | None = None
    transform: Transform | None = None

    @classmethod
    def of(
        cls,
        call: StepCall,
        parts: Iterable[Step],
        *,
        direct: bool = False,
        forks: bool = False,
        produce: Produce | None = None,
        transform: Transform | None = None,
    ) -> Step:
        """Return a step that is put together from `parts`; `forks` says that these run at the same time."""
        parts = list(parts)
        lists = max((part.lists for part in parts), default=0)
        meets = any(part.meets for part in parts) or (forks and lists > 0)
        return cls(call, direct=direct, lists=lists, meets=meets, produce=produce, transform=transform)

    async def run(self, value: Any, strand: Strand) -> Any:
        """Return the output, whether the step is inline or not."""
        return self.call(value, strand) if self.inline else await self.call(value, strand)
