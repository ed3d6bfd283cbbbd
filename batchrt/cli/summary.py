"""What is said when a job has ended."""

from __future__ import annotations

from collections.abc import Iterator

from batchrt.cli.answers import cut_off_reason
from batchrt.cli.incidents import Incidents
from batchrt.cli.numbers import count, rate
from batchrt.cli.tally import Tally
from batchrt.files import Sink, VectorSink
from batchrt.files.cells import listed

__all__ = ["losses", "summary"]


def summary(
    tally: Tally,
    incidents: Incidents,
    sink: Sink | VectorSink,
    seconds: float,
    *,
    stopped: str = "",
    not_started: str = "",
    cost: str = "",
) -> str:
    """Return some lines: how many, how fast, what it took, what went wrong, and where the rows are.

    `stopped` is the line about a limit of spending that was reached, if one was; it tells of the rows that
    were left out for it. `not_started` is the one about rows that were never begun, `cost` the one about
    money.
    """
    return "\n".join(_lines(tally, incidents, sink, seconds, (stopped, not_started, cost)))


def losses(tally: Tally, sink: Sink | VectorSink) -> Iterator[str]:
    """Return a line for each way in which rows have less than they seem to have."""
    for reason, number in tally.cut_off.items():
        yield f"{count(number, 'answer')} {cut_off_reason(reason)}"
    if isinstance(sink, Sink) and sink.left_out:
        names = listed(sorted(sink.left_out))
        yield f"left out of {count(sink.rows_short, 'row')}, for there is no column for them: {names}"


def _lines(
    tally: Tally,
    incidents: Incidents,
    sink: Sink | VectorSink,
    seconds: float,
    said: tuple[str, str, str],
) -> Iterator[str]:
    stopped, not_started, cost = said
    pace = f" ({rate(tally.ended / seconds)})" if seconds > 0 else ""
    cancelled = f", {tally.in_flight:,} more cancelled" if tally.in_flight else ""
    left_out = f", {tally.left_out:,} that waited left out" if tally.left_out and not stopped else ""
    yield (
        f"{count(tally.ended, 'row')} in {seconds:.1f} s{pace}: "
        f"{tally.done:,} done, {tally.failed:,} failed{cancelled}{left_out}"
    )
    yield from filter(None, (stopped, not_started))
    yield from _costs(tally)
    if cost:
        yield cost
    happened = [f"repeated requests: {tally.retries:,}"] if tally.retries else []
    happened += incidents.words()
    if happened:
        yield "; ".join(happened)
    yield from losses(tally, sink)
    for name, kind in sorted(tally.kinds.items(), key=lambda pair: -pair[1].count):
        yield f"{kind.count:,} {name}, as in {kind.example}"
    yield from _output(sink)


def _costs(tally: Tally) -> Iterator[str]:
    billed = tally.input_tokens or tally.output_tokens
    if tally.lists:
        if billed:
            yield f"tokens: {tally.input_tokens:,}"
        per_list = round(tally.sent / tally.lists)
        yield f"{count(tally.lists, 'list')} sent, of {count(per_list, 'text')} on average"
    elif billed:
        yield f"tokens: {tally.input_tokens:,} in, {tally.output_tokens:,} out"
    if tally.estimated_tokens:
        yield f"tokens that the server did not count: about {tally.estimated_tokens:,}"


def _output(sink: Sink | VectorSink) -> Iterator[str]:
    if isinstance(sink, VectorSink):
        width = "" if sink.width is None else f" of {count(sink.width, 'number')}"
        yield f"output: {count(sink.rows, 'row')}{width} in {' and '.join(sink.paths)}"
        return
    yield f"output: {sink.path}"
