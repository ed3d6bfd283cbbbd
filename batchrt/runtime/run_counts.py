"""The counts of a run: attempts and lists, which no single item accounts for."""

from __future__ import annotations

__all__ = ["RunCounts"]


class RunCounts:
    """Count the repeated attempts and the lists of a run, those of runs nested in it included.

    Attributes:
        retries: attempts after the first; those of a list once, however many inputs it has.
        lists: lists that were sent, each half of a list that failed included.
        list_inputs: inputs in those lists, equal ones of a list once.
        cached: inputs that were answered from the response cache, or by an equal request in flight.
        estimated_tokens: the estimated tokens of embeddings whose answer had no usage.
    """

    __slots__ = ("_above", "cached", "estimated_tokens", "list_inputs", "lists", "retries")

    def __init__(self, above: RunCounts | None = None) -> None:
        self.retries: int = 0
        self.lists: int = 0
        self.list_inputs: int = 0
        self.cached: int = 0
        self.estimated_tokens: float = 0.0
        self._above = above

    def add(
        self,
        *,
        retries: int = 0,
        lists: int = 0,
        list_inputs: int = 0,
        cached: int = 0,
        tokens: float = 0.0,
    ) -> None:
        """Add to the counts of this run and of those that it is nested in."""
        counts: RunCounts | None = self
        while counts is not None:
            counts.retries += retries
            counts.lists += lists
            counts.list_inputs += list_inputs
            counts.cached += cached
            counts.estimated_tokens += tokens
            counts = counts._above
