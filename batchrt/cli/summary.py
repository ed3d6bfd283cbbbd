"""What is said when a job has ended."""

from __future__ import annotations

from collections.abc import Iterator

from batchrt.cli.numbers import count, rate
from batchrt.cli.tally import Tally
from batchrt.jobs import Sink

__all__ = ["summary"]

_REASONS = {
    "length": "cut off at the token limit",
    "content_filter": "cut off by the provider's content filter",
}


def summary(tally: Tally, sink: Sink, seconds: float) -> str:
    """Return some lines: how many, how fast, what it took, what went wrong, and where the rows are."""
    return "\n".join(_lines(tally, sink, seconds))


def _lines(tally: Tally, sink: Sink, seconds: float) -> Iterator[str]:
    pace = f" ({rate(tally.ended / seconds)})" if seconds > 0 else ""
    cancelled = f", {tally.in_flight:,} more cancelled" if tally.in_flight else ""
    yield (
        f"{count(tally.ended, 'row')} in {seconds:.1f} s{pace}: "
        f"{tally.done:,} done, {tally.failed:,} failed{cancelled}"
    )
    if tally.input_tokens or tally.output_tokens:
        yield f"tokens: {tally.input_tokens:,} in, {tally.output_tokens:,} out"
    if tally.retries:
        yield f"repeated requests: {tally.retries:,}"
    for reason, number in tally.cut_off.items():
        yield f"{count(number, 'answer')} {_REASONS.get(reason, f'ended for the reason {reason!r}')}"
    for name, kind in sorted(tally.kinds.items(), key=lambda pair: -pair[1].count):
        yield f"{kind.count:,} {name}, as in {kind.example}"
    if sink.left_out:
        yield f"left out, for there is no column for them: {', '.join(sorted(sink.left_out))}"
    yield f"output: {sink.path}"
