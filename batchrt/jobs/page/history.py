"""The history of a job: its rows and events over time, read from the journal in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from batchrt.jobs.journal_reader import JournalReader, RecordedEvent
from batchrt.jobs.page.percentiles import Percentiles
from batchrt.jobs.page.timeline import Timeline
from batchrt.jobs.records import decode_json

__all__ = ["Flow", "History", "OverTime"]

BINS: Final = 120
"""Points of a picture's horizontal axis."""
_SLOWEST: Final = 10
"""Rows that are shown as the slowest."""
_REFUSED: Final = "RateLimitError"
_NO_LATER: Final = 1.0
"""Seconds by which an event may lie outside of the time of the rows and still be drawn."""


class Flow:
    """Measure how many rows were under way in each bin, from when they began and ended.

    The sum of (x - t) over all times t before x is the area under the number of those times; the area
    between begins and ends, divided by a bin's width, is the mean number under way.
    """

    def __init__(self, width: float) -> None:
        self._width = width
        self._counts = np.zeros(BINS + 1)
        self._sums = np.zeros(BINS + 1)

    def add(self, began: Any, ended: Any) -> None:
        """Add rows by begin and end, in seconds of work."""
        for times, sign in ((began, 1.0), (ended, -1.0)):
            places = np.minimum((times / self._width).astype(np.int64), BINS)
            self._counts += sign * np.bincount(places, minlength=BINS + 1)
            self._sums += sign * np.bincount(places, weights=times, minlength=BINS + 1)

    def means(self) -> Any:
        """Return the mean number under way in each bin."""
        edges = np.arange(1, BINS + 1) * self._width
        area = edges * np.cumsum(self._counts)[:-1] - np.cumsum(self._sums)[:-1]
        return np.maximum(np.diff(area, prepend=0.0) / self._width, 0.0)


class OverTime(NamedTuple):
    """Numbers of each bin of a job's time at work.

    Attributes:
        width: of a bin, in seconds.
        done, failed: rows that ended in it.
        under_way: the mean number of rows that had begun and not ended.
        in_requests: the mean number of rows with an answered request under way.
        refusals: requests that a rate limit refused, and that were sent again.
        retries: requests that failed otherwise, and were sent again.
        input_tokens, output_tokens: of the rows that ended in it.
        cost: their cost; 0 for rows without one.
    """

    width: float
    done: Any
    failed: Any
    under_way: Any
    in_requests: Any
    refusals: Any
    retries: Any
    input_tokens: Any
    output_tokens: Any
    cost: Any


class History:
    """Read the rows that are in the input, and the events, of a journal.

    Args:
        reader: of the journal.

    Attributes:
        timeline: the job's time at work.
        over_time: numbers by time.
        row_seconds, request_seconds: percentiles of the times from a row's admission to its end, and of its
            answered requests alone.
        slowest: the places of the rows that took longest, the longest first.
        tokens: by model and by kind of token.
        cooldowns, outages: events, in order.
        run_starts: when runs began, in seconds since 1970, as far as it is recorded.
    """

    def __init__(self, reader: JournalReader) -> None:
        self._reader = reader
        events = list(reader.events())
        self.cooldowns: list[RecordedEvent] = [event for event in events if event.kind == "cool-down"]
        self.outages: list[RecordedEvent] = [event for event in events if event.kind == "outage"]
        self.run_starts: list[float] = reader.run_starts()
        spans = list(reader.activity())
        self.timeline: Timeline = Timeline([*spans, *self._spans_of_outages()])
        self.row_seconds: Percentiles = Percentiles()
        self.request_seconds: Percentiles = Percentiles()
        self.slowest: list[int] = []
        self.tokens: dict[str, Counter[str]] = {}
        self._longest = np.zeros(0)
        self._places = np.zeros(0)
        width = self.timeline.seconds / BINS
        self._rows, self._requests = Flow(width), Flow(width)
        sums = np.zeros((5, BINS))
        for columns, usages in self._pages():
            self._add_rows(columns, sums)
            self._add_usages(usages)
        self.slowest = [int(place) for place in self._places]
        refusals, retries = self._retries(events)
        done, failed, tokens_in, tokens_out, cost = sums
        self.over_time: OverTime = OverTime(
            width,
            done,
            failed,
            self._rows.means(),
            self._requests.means(),
            refusals,
            retries,
            tokens_in,
            tokens_out,
            cost,
        )

    def _spans_of_outages(self) -> Iterator[tuple[float, float]]:
        return ((event.began, event.ended) for event in self.outages)

    def _pages(self) -> Iterator[tuple[Any, list[str]]]:
        for page in self._reader.measures():
            *columns, usages = zip(*page, strict=True)
            yield np.array(columns, dtype=np.float64), [text for text in usages if text is not None]

    def _add_rows(self, columns: Any, sums: Any) -> None:
        places, failed, finished, seconds, request_seconds, *amounts = columns
        bins = self._bins_of(finished)
        for row, weights in enumerate((1 - failed, failed, *map(np.nan_to_num, amounts))):
            sums[row] += np.bincount(bins, weights=weights, minlength=BINS)
        at = self.timeline.at
        ended = at(finished)
        self._rows.add(at(finished - seconds), ended)
        sent = ~np.isnan(request_seconds)
        self._requests.add(at((finished - request_seconds)[sent]), ended[sent])
        self.row_seconds.add(seconds)
        self.request_seconds.add(request_seconds)
        longest = np.concatenate([self._longest, seconds])
        order = np.argsort(-longest, kind="stable")[:_SLOWEST]
        self._longest = longest[order]
        self._places = np.concatenate([self._places, places])[order]

    def _add_usages(self, usages: list[str]) -> None:
        for usage in decode_json(f"[{','.join(usages)}]"):
            for model, counts in usage.items():
                known = self.tokens.setdefault(model, Counter())
                known["rows"] += 1
                for name, count in counts.items():
                    if type(count) is int and count:
                        known[name] += count

    def _retries(self, events: list[RecordedEvent]) -> tuple[Any, Any]:
        """Return the refusals and the other retries of each bin."""
        sums = np.zeros((2, BINS))
        for event in events:
            if event.kind == "retry" and self.is_drawn(event):
                place = self._bins_of(np.array([(event.began + event.ended) / 2]))[0]
                sums[0 if event.reason.startswith(_REFUSED) else 1, place] += event.number
        return sums[0], sums[1]

    def _bins_of(self, times: Any) -> Any:
        width = self.timeline.seconds / BINS
        return np.clip((self.timeline.at(times) / width).astype(np.int64), 0, BINS - 1)

    def is_drawn(self, event: RecordedEvent) -> bool:
        """Whether an event belongs to the time of the rows."""
        return any(
            began - _NO_LATER <= event.ended and event.began <= ended + _NO_LATER
            for began, ended in self.timeline.spans
        )
