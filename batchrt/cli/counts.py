"""Counts of a job, and the summary made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from batchrt import Price, Usage
from batchrt.cli.console import count, rate
from batchrt.cli.provider_events import ProviderEvents
from batchrt.files import Sink, VectorSink
from batchrt.files.cells import error_line, listed

__all__ = [
    "Counts",
    "Kind",
    "cut_off_lines",
    "cut_off_reason",
    "kept_apart",
    "left_out_lines",
    "output_lines",
    "summary",
]

_EXAMPLE: Final = 300


_CUT_OFF: Final = {
    "length": "cut off at the token limit",
    "max_tokens": "cut off at the token limit",
    "content_filter": "cut off by the provider's content filter",
    "safety": "cut off by the provider's content filter",
}


def cut_off_reason(finish_reason: str) -> str:
    """Return in words how an answer with this `finish_reason` ended."""
    return _CUT_OFF.get(finish_reason.lower(), f"ended for the reason {finish_reason[:40]!r}")


@dataclass(slots=True)
class Kind:
    """Count one kind of error, and keep the first of it."""

    example: str
    count: int = 0


@dataclass(slots=True)
class Counts:
    """Count rows, tokens and errors.

    Attributes:
        started: rows that were read for the run.
        done, failed: rows that ended.
        answered: rows that a model answered, whatever the answer was like.
        cancelled: rows that were given up after a request of theirs had been sent.
        retries: attempts after the first.
        lists, sent: lists that were sent, and the texts in them.
        cached: answers from the response cache.
        input_tokens, output_tokens: tokens billed.
        price: the model's, by which `cost` is counted; `None` if it is not known.
        cost: of the tokens billed.
        estimated_tokens: tokens of responses without a usage.
        cut_off: answers that are not whole, by the provider's reason.
        kinds: errors by the name of their class.
    """

    started: int = 0
    done: int = 0
    failed: int = 0
    answered: int = 0
    cancelled: int = 0
    retries: int = 0
    lists: int = 0
    sent: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    price: Price | None = None
    cost: float = 0.0
    estimated_tokens: int = 0
    cut_off: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """Rows done or failed."""
        return self.done + self.failed

    def add_usage(self, usage: Usage) -> None:
        """Count the tokens of an answer."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        if self.price is not None:
            self.cost += self.price.of_usage(usage)

    def add_cut_off(self, reason: str) -> None:
        """Count an answer that is not whole."""
        self.cut_off[reason] = self.cut_off.get(reason, 0) + 1

    def add_failure(self, row: int, error: Exception) -> None:
        """Count a row that failed."""
        self.failed += 1
        name = type(error).__name__
        kind = self.kinds.get(name)
        if kind is None:
            line = f"row {row}: {error_line(error).removeprefix(f'{name}: ')}"
            kind = self.kinds[name] = Kind(line if len(line) <= _EXAMPLE else line[:_EXAMPLE] + "…")
        kind.count += 1


def summary(
    counts: Counts,
    events: ProviderEvents,
    seconds: float,
    *,
    stopped: str = "",
    not_started: str = "",
    cost: str = "",
) -> Iterator[str]:
    """Yield the lines of a summary: rows, rate, tokens, cost and errors.

    `stopped` is the line about a limit of spending that was reached, if one was; it tells of the rows that
    were cancelled for it. `not_started` is the one about rows that were never sent, `cost` the one about
    money.
    """
    pace = f" ({rate(counts.ended / seconds)})" if seconds > 0 else ""
    cancelled = f", {counts.cancelled:,} more cancelled" if counts.cancelled and not stopped else ""
    yield (
        f"{count(counts.ended, 'row')} in {seconds:.1f} s{pace}: "
        f"{counts.done:,} done, {counts.failed:,} failed{cancelled}"
    )
    yield from filter(None, (stopped, not_started))
    yield from _costs(counts)
    if cost:
        yield cost
    happened = [f"repeated requests: {counts.retries:,}"] if counts.retries else []
    happened += events.words()
    if happened:
        yield "; ".join(happened)
    yield from cut_off_lines(counts)
    for name, kind in sorted(counts.kinds.items(), key=lambda pair: -pair[1].count):
        yield f"{kind.count:,} {name}, as in {kind.example}"


def output_lines(sink: Sink | VectorSink) -> Iterator[str]:
    """Yield the lines of a summary about an output that is closed."""
    yield from left_out_lines(sink)
    if not sink.kept_old:
        yield from _output(sink)
    yield from kept_apart(sink)


def cut_off_lines(counts: Counts) -> Iterator[str]:
    """Yield a line for each way in which answers are not whole."""
    for reason, number in counts.cut_off.items():
        yield f"{count(number, 'answer')} {cut_off_reason(reason)}"


def left_out_lines(sink: Sink | VectorSink) -> Iterator[str]:
    """Yield a line if rows have less than they seem to have."""
    if isinstance(sink, Sink) and sink.left_out:
        names = listed(sorted(sink.left_out))
        yield f"left out of {count(sink.rows_short, 'row')}, for there is no column for them: {names}"


def _costs(counts: Counts) -> Iterator[str]:
    billed = counts.input_tokens or counts.output_tokens
    if counts.lists:
        if billed:
            yield f"tokens: {counts.input_tokens:,}"
        per_list = round(counts.sent / counts.lists)
        yield f"{count(counts.lists, 'list')} sent, of {count(per_list, 'text')} on average"
    elif billed:
        yield f"tokens: {counts.input_tokens:,} in, {counts.output_tokens:,} out"
    if counts.cached:
        yield f"from the response cache: {count(counts.cached, 'answer')}"
    if counts.estimated_tokens:
        yield f"tokens that the server did not count: about {counts.estimated_tokens:,}"


def kept_apart(sink: Sink | VectorSink) -> Iterator[str]:
    """Return a line for each way in which the output is elsewhere than its name says."""
    if sink.kept_old:
        where = (
            f"the rows so far are in {' and '.join(sink.partial_paths)}"
            if sink.partial_paths
            else "it has no rows"
        )
        yield f"the new file is not complete ({where}); the old one is unchanged"
    if sink.left_over_paths:
        yield f"an earlier run was killed; its rows are in {' and '.join(sink.left_over_paths)}"


def _output(sink: Sink | VectorSink) -> Iterator[str]:
    if isinstance(sink, VectorSink):
        width = "" if sink.width is None else f" of {count(sink.width, 'number')}"
        yield f"output: {count(sink.rows, 'row')}{width} in {' and '.join(sink.paths)}"
        return
    yield f"output: {sink.path}"
