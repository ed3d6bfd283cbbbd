"""Progress of a job: a live line on a terminal, a log line every five seconds elsewhere."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from batchrt.cli.budget import Budget
from batchrt.cli.console import complain, count, duration, rate, short
from batchrt.cli.counts import Counts

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from batchrt import QuotaStatistics

__all__ = [
    "Display",
    "LiveLine",
    "LogLines",
    "Progress",
    "choose_display",
    "in_flight_words",
    "trouble_words",
    "use_words",
]

_SHORTEST: Final = 1.0
"""Seconds of a pause that are worth a word: many are over before it is read."""


def in_flight_words(standing: QuotaStatistics, noun: str | None) -> str:
    """Return `12 in flight`, or `12 of 32 in flight` under adaptive concurrency; with `noun` as the unit."""
    most = standing.max_concurrency
    number = f"{standing.in_flight:,}" if most is None else f"{standing.in_flight:,} of {most:,}"
    if noun is None:
        return f"{number} in flight"
    plural = "" if (standing.in_flight if most is None else most) == 1 else "s"
    return f"{number} {noun}{plural} in flight"


def trouble_words(standing: QuotaStatistics) -> list[str]:
    """Return why nothing is sent, if that is so."""
    words: list[str] = []
    if standing.quiet_for >= _SHORTEST:
        words.append(f"cooling down {duration(standing.quiet_for)}")
    if standing.down_for is not None:
        words.append(f"provider down {duration(standing.down_for)}")
    return words


def use_words(standing: QuotaStatistics, noun: str | None) -> list[str]:
    """Return the number of waiting requests, and the use of the known rate limit that is used most."""
    words: list[str] = []
    if standing.waiting:
        waiting = f"{standing.waiting:,}" if noun is None else count(standing.waiting, noun)
        words.append(f"{waiting} waiting")
    known = [(share, name) for name, share in standing.used.items() if name in standing.limits]
    if known:
        share, name = max(known)
        what = name.replace("_per_minute", "/min").replace("_per_day", "/day")
        words.append(f"{share:.0%} of {short(round(standing.limits[name]))} {what}")
    return words


_LIVE_SECONDS: Final = 0.125
_LOG_SECONDS: Final = 5.0
_PACE_SECONDS: Final = 10.0
_BAR_WIDTH: Final = 20
_FEWEST_FOR_ETA: Final = 0.01


class Progress:
    """Say how far a job is.

    Args:
        counts: the counts.
        total: how many rows there are, or `None`.
        limit: how many there are at most, or `None`.
        fraction_read: says which share of the input was read, or `None`; asked where `total` is not known.
        quota: says how things stand with the provider.
        budget: the limits of spending.
        noun: the unit of requests in flight, if they are not called that.
        update: brings the counts up to date.
        before: says how many of the rows have an outcome of an earlier run.
    """

    def __init__(
        self,
        counts: Counts,
        *,
        total: int | None,
        limit: int | None,
        fraction_read: Callable[[], float | None],
        quota: Callable[[], QuotaStatistics],
        budget: Budget | None = None,
        noun: str | None = None,
        update: Callable[[], None] | None = None,
        before: Callable[[], int] = lambda: 0,
    ) -> None:
        self.counts = counts
        self._total = total
        self._limit = limit
        self._fraction_read = fraction_read
        self._quota = quota
        self._budget = Budget() if budget is None else budget
        self._noun = noun
        self._update = update
        self._before = before
        self._started = anyio.current_time()
        self._samples: deque[tuple[float, int]] = deque([(self._started, 0)])

    def fraction(self) -> float | None:
        """Return the share of the work that is done, 0 to 1, or `None` if it is not known."""
        ended, started = self.counts.ended + self._before(), self.counts.started
        if self._total is not None:
            return ended / self._total if self._total else 1.0
        read = self._fraction_read()
        of_file = None if read is None or not started else read * ended / started
        if self._limit is None:
            return of_file
        return max(of_file or 0.0, ended / self._limit)

    def per_second(self) -> float:
        """Return the rows ended per second, over the last ten seconds."""
        now, samples = anyio.current_time(), self._samples
        samples.append((now, self.counts.ended))
        while len(samples) > 2 and samples[1][0] < now - _PACE_SECONDS:  # noqa: PLR2004
            samples.popleft()
        (then, before), passed = samples[0], now - samples[0][0]
        return (self.counts.ended - before) / passed if passed > 0 and then < now else 0.0

    def words(self) -> list[str]:
        """Return the facts, the most important ones first."""
        if self._update is not None:
            self._update()
        counts, quota, noun = self.counts, self._quota(), self._noun
        of_total = f" of {self._total:,}" if self._total is not None else ""
        words = [f"{counts.done:,}{of_total} done"]
        if before := self._before():
            words.append(f"{before:,} of earlier runs")
        if counts.failed:
            words.append(f"{counts.failed:,} failed")
        trouble = trouble_words(quota)
        words += [in_flight_words(quota, noun), *trouble, rate(self.per_second())]
        left = self._seconds_left()
        if left is not None and not trouble:
            words.append(f"ETA {duration(left)}")
        words += self._budget.words(counts)
        words += use_words(quota, noun)
        tokens = counts.input_tokens + counts.output_tokens + counts.estimated_tokens
        if tokens:
            words.append(f"{'about ' if counts.estimated_tokens else ''}{short(tokens)} tokens")
        return words

    def _seconds_left(self) -> float | None:
        fraction = self.fraction()
        if fraction is None or fraction < _FEWEST_FOR_ETA:
            return None
        ended = self.counts.ended
        if not ended:
            return None
        by_this_run = fraction * ended / (ended + self._before())
        return (anyio.current_time() - self._started) * (1 - fraction) / by_this_run


class Display:
    """Show a job's progress and its notes; this one shows nothing."""

    async def show(self, progress: Progress) -> None:
        """Show `progress` until cancelled."""

    def note(self, text: str) -> None:
        """Write one line without spoiling the progress line."""


class LogLines(Display):
    """Write a line now and then."""

    async def show(self, progress: Progress) -> None:
        """Write a line every five seconds."""
        while True:
            await anyio.sleep(_LOG_SECONDS)
            complain(", ".join(progress.words()))

    def note(self, text: str) -> None:
        """Write a line."""
        complain(text)


class LiveLine(Display):
    """Keep one line of the terminal up to date; it is gone afterwards."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def show(self, progress: Progress) -> None:
        """Update the line eight times a second."""
        from rich.live import Live

        live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with suppress(OSError), live:  # a terminal may go
            while True:
                live.update(_line(progress), refresh=True)
                await anyio.sleep(_LIVE_SECONDS)

    def note(self, text: str) -> None:
        """Say it above the line."""
        with suppress(OSError):
            self._console.print(f"batchrt: {text}", markup=False, highlight=False)


def _line(progress: Progress) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    words = Text(" · ".join(progress.words()), no_wrap=True, overflow="ellipsis")
    fraction = progress.fraction()
    if fraction is None:
        return words
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=1.0, completed=fraction, width=_BAR_WIDTH)
    line.add_row(bar, f"{fraction:4.0%}", words)
    return line


def choose_display(*, quiet: bool, rows_on_terminal: bool) -> Display:
    """Return the display for this terminal: a live line needs one to itself."""
    if quiet or sys.stderr is None:  # a daemon's may be closed
        return Display()
    if rows_on_terminal or not sys.stderr.isatty():
        return LogLines()
    from rich.console import Console

    console = Console(stderr=True)
    return LiveLine(console) if console.is_terminal and not console.is_dumb_terminal else LogLines()
