"""How a job comes along: a live line on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from batchrt.cli import standing
from batchrt.cli.numbers import duration, rate, short
from batchrt.cli.purse import Purse
from batchrt.cli.speech import complain
from batchrt.cli.tally import Tally

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from batchrt.limits.quota_statistics import QuotaStatistics

__all__ = ["Display", "LiveLine", "LogLines", "Progress", "Silence", "choose_display"]

_LIVE_SECONDS: Final = 0.125
_LOG_SECONDS: Final = 5.0
_PACE_SECONDS: Final = 10.0
_BAR_WIDTH: Final = 20
_FEWEST_FOR_ETA: Final = 0.01


class Progress:
    """Say how far a job is.

    Args:
        tally: the counts.
        total: how many rows there are, or `None`.
        limit: how many there are at most, or `None`.
        fraction_read: says which share of the input was read, or `None`; asked where `total` is not known.
        quota: says how things stand with the provider.
        purse: what may be spent.
    """

    def __init__(
        self,
        tally: Tally,
        *,
        total: int | None,
        limit: int | None,
        fraction_read: Callable[[], float | None],
        quota: Callable[[], QuotaStatistics],
        purse: Purse | None = None,
    ) -> None:
        self.tally = tally
        self._total = total
        self._limit = limit
        self._fraction_read = fraction_read
        self._quota = quota
        self._purse = Purse() if purse is None else purse
        self._started = anyio.current_time()
        self._samples: deque[tuple[float, int]] = deque([(self._started, 0)])

    def fraction(self) -> float | None:
        """Return the share of the work that is done, 0 to 1, or `None` if nobody knows."""
        tally = self.tally
        if self._total is not None:
            return tally.ended / self._total if self._total else 1.0
        read = self._fraction_read()
        of_file = None if read is None or not tally.started else read * tally.ended / tally.started
        if self._limit is None:
            return of_file
        return max(of_file or 0.0, tally.ended / self._limit)

    def per_second(self) -> float:
        """Return the rows ended per second, over the last ten seconds."""
        now, samples = anyio.current_time(), self._samples
        samples.append((now, self.tally.ended))
        while len(samples) > 2 and samples[1][0] < now - _PACE_SECONDS:  # noqa: PLR2004
            samples.popleft()
        (then, before), passed = samples[0], now - samples[0][0]
        return (self.tally.ended - before) / passed if passed > 0 and then < now else 0.0

    def words(self) -> list[str]:
        """Return the facts, the most important ones first."""
        tally, quota = self.tally, self._quota()
        noun = "list" if tally.lists else None
        of_total = f" of {self._total:,}" if self._total is not None else ""
        words = [f"{tally.done:,}{of_total} done"]
        if tally.failed:
            words.append(f"{tally.failed:,} failed")
        trouble = standing.trouble(quota)
        words += [standing.in_flight(quota, noun), *trouble, rate(self.per_second())]
        left = self._seconds_left()
        if left is not None and not trouble:
            words.append(f"ETA {duration(left)}")
        words += self._purse.words()
        words += standing.use(quota, noun)
        tokens = tally.input_tokens + tally.output_tokens + tally.estimated_tokens
        if tokens:
            words.append(f"{'about ' if tally.estimated_tokens else ''}{short(tokens)} tokens")
        return words

    def _seconds_left(self) -> float | None:
        fraction = self.fraction()
        if fraction is None or fraction < _FEWEST_FOR_ETA:
            return None
        return (anyio.current_time() - self._started) * (1 - fraction) / fraction


class Display(Protocol):
    """Show a job's progress and what there is to say meanwhile."""

    async def show(self, progress: Progress) -> None:
        """Show `progress` until cancelled."""

    def note(self, text: str) -> None:
        """Say one line without spoiling what is shown."""


class Silence:
    """Show nothing."""

    async def show(self, progress: Progress) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


class LogLines:
    """Write a line now and then."""

    async def show(self, progress: Progress) -> None:
        """Write a line every five seconds."""
        while True:
            await anyio.sleep(_LOG_SECONDS)
            complain(", ".join(progress.words()))

    def note(self, text: str) -> None:
        """Write a line."""
        complain(text)


class LiveLine:
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
    """Return what suits: a live line needs a terminal to itself."""
    if quiet or sys.stderr is None:  # a daemon's may be closed
        return Silence()
    if rows_on_terminal or not sys.stderr.isatty():
        return LogLines()
    from rich.console import Console

    console = Console(stderr=True)
    return LiveLine(console) if console.is_terminal and not console.is_dumb_terminal else LogLines()
