"""The report of a job: how many rows ended how, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["JobReport"]


@dataclass(frozen=True, slots=True)
class JobReport:
    """Report a job: its last run, and all that its journal holds.

    Attributes:
        journal: the journal's path.
        is_complete: whether each row of the input has an outcome that stands.
        rows: rows of the input that were read.
        reused: of these, rows with an output in the journal from before.
        failed_before: rows with an error in the journal from before.
        changed: rows that were run again, or are to be, since the chain is another one.
        changed_parts: for how many of them, by the name of what changed.
        new: rows that the journal did not know.
        gone: rows in the journal that are not in the input any more; `None` if its end was not reached.
        kept: of the reused rows, those with an answer of another chain (`reuse="any"`).
        interrupted: rows whose requests could not be answered at all, for the key, the credit or an outage;
            they are run again by the next run.
        not_started: rows that were read and not sent.
        done, failed: rows in the journal with an output, with an error.
        retries: attempts beyond the first, of all of these rows.
        input_tokens, output_tokens, cost: of all of these rows; the cost is `None` without prices.
        errors: failed rows by the kind of error.
        seconds: of the last run.
        ended: why it ended early, in a sentence, or `None`.
        aside: where an older journal was moved (`fresh`), or `None`.
    """

    journal: str
    is_complete: bool = False
    rows: int = 0
    reused: int = 0
    failed_before: int = 0
    changed: int = 0
    changed_parts: Mapping[str, int] = field(default_factory=dict)
    new: int = 0
    gone: int | None = None
    kept: int = 0
    interrupted: int = 0
    not_started: int = 0
    done: int = 0
    failed: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    ended: str | None = None
    aside: str | None = None

    def resumed(self) -> str:
        """Return one line on how the rows were matched with the journal; empty for a first run."""
        counts = {
            "reused": self.reused,
            "failed before": self.failed_before,
            "changed": self.changed,
            "new": self.new,
            "gone": self.gone or 0,
        }
        if not any(count for name, count in counts.items() if name != "new"):
            return ""
        return ", ".join(f"{count:,} {name}" for name, count in counts.items())

    def lines(self) -> Iterator[str]:
        """Yield the lines of a summary."""
        if self.aside is not None:
            yield f"the journal of before is kept as {self.aside}"
        if resumed := self.resumed():
            yield f"rows by the journal {self.journal}: {resumed}"
        for name, count in sorted(self.changed_parts.items(), key=lambda pair: -pair[1]):
            yield f"{name} changed: {count:,} row{'' if count == 1 else 's'} run again"
        if self.kept:
            yield f"{self.kept:,} answers are of another chain (`reuse` any)"
        yield f"{self.done:,} done, {self.failed:,} failed in {self.seconds:.2f} s"
        for kind, count in self.errors.items():
            yield f"{count:,} {kind}"
        if self.input_tokens or self.output_tokens:
            cost = "" if self.cost is None else f", cost {self.cost:.4g}"
            yield f"{self.input_tokens:,} tokens in, {self.output_tokens:,} out{cost}"
        if not self.is_complete:
            left = f"{self.interrupted:,} interrupted, {self.not_started:,} not started"
            reason = f" ({self.ended})" if self.ended else ""
            yield f"stopped before the end{reason}: {left}; run the job again to go on"

    def __str__(self) -> str:
        return "\n".join(self.lines())
