"""The counts of a job, kept as rows end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from batchrt.cli.entries import Entry
from batchrt.files.cells import error_line
from batchrt.messages import Usage

__all__ = ["Kind", "Tally"]

_EXAMPLE: Final = 300


@dataclass(slots=True)
class Kind:
    """Count one kind of error, and keep the first of it."""

    example: str
    count: int = 0


@dataclass(slots=True)
class Tally:
    """Count rows, tokens and errors.

    Attributes:
        started: rows that were begun.
        done, failed: rows that ended.
        answered: rows that a model answered, whatever the answer was like.
        left_out: rows that were begun and given up before they were sent, or all of them could be.
        retries: attempts after the first.
        lists, sent: lists that were sent, and the texts in them.
        input_tokens, output_tokens: what was billed.
        billed: the same by service tier, with what caches saved of it.
        estimated_tokens: of answers that do not tell what was billed.
        cut_off: answers that are not whole, by the provider's reason.
        kinds: errors by the name of their class.
    """

    started: int = 0
    done: int = 0
    failed: int = 0
    answered: int = 0
    left_out: int = 0
    retries: int = 0
    lists: int = 0
    sent: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    billed: dict[str | None, Usage] = field(default_factory=dict)
    estimated_tokens: int = 0
    cut_off: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """Rows done or failed."""
        return self.done + self.failed

    @property
    def in_flight(self) -> int:
        """Rows begun and neither ended nor given up."""
        return self.started - self.done - self.failed - self.left_out

    def add_usage(self, usage: Usage) -> None:
        """Count the tokens of an answer."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        known = self.billed.get(usage.service_tier)
        self.billed[usage.service_tier] = usage if known is None else known + usage

    def add_cut_off(self, reason: str) -> None:
        """Count an answer that is not whole."""
        self.cut_off[reason] = self.cut_off.get(reason, 0) + 1

    def add_failure(self, entry: Entry, error: Exception) -> None:
        """Count a row that failed."""
        self.failed += 1
        name = type(error).__name__
        kind = self.kinds.get(name)
        if kind is None:
            line = f"row {entry.row.number}: {error_line(error).removeprefix(f'{name}: ')}"
            kind = self.kinds[name] = Kind(line if len(line) <= _EXAMPLE else line[:_EXAMPLE] + "…")
        kind.count += 1
