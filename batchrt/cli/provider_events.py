"""Provider events during a job: cool-downs, outages, changes of concurrency."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import anyio

from batchrt import BudgetEmpty, CooledDown, LimitChanged, ProviderDown, ProviderUp, QuotaEvent
from batchrt.cli.console import count, duration

__all__ = ["ProviderEvents"]

_LONG: Final = 5.0
"""Seconds of a pause from which on it is worth a line."""
_SELDOM: Final = 60.0
"""Seconds between two lines about the same thing."""


class ProviderEvents:
    """Listen to a quota: report its events as they come, and count them.

    Requests that are under way when the first is refused are refused as well, each asking for much the
    same pause: pauses that overlap are one.

    Args:
        note: says a line.
        patience: seconds for which a provider that is down is waited for.

    Attributes:
        pauses: cool-downs that the provider asked for.
        outages: times that the provider was down.
        concurrency: the last limit under `auto`; `None` if it never changed.
    """

    def __init__(self, note: Callable[[str], None], *, patience: float) -> None:
        self.pauses: int = 0
        self.outages: int = 0
        self.concurrency: int | None = None
        self._say = note
        self._waits = patience > 0
        self._quiet_seconds = 0.0
        self._quiet_until = -math.inf
        self._down_seconds = 0.0
        self._down_since: float | None = None
        self._said_down = False
        self._said: dict[type[QuotaEvent], float] = {}

    def __call__(self, event: QuotaEvent) -> None:
        """Take note of `event`."""
        if isinstance(event, CooledDown):
            self._cooled_down(event)
        elif isinstance(event, ProviderDown):
            self._went_down(event)
        elif isinstance(event, ProviderUp):
            self._came_back(event)
        elif isinstance(event, BudgetEmpty):
            self._note(
                event, f"the retry budget is empty because too many requests fail; {self._what_then()}"
            )
        elif isinstance(event, LimitChanged) and event.name == "max_concurrency" and event.after is not None:
            self.concurrency = round(event.after)

    def _cooled_down(self, event: CooledDown) -> None:
        now = anyio.current_time()
        if now >= self._quiet_until:
            self.pauses += 1
        longer = now + event.wait - max(now, self._quiet_until)
        self._quiet_seconds += longer
        self._quiet_until = now + event.wait
        if longer > _LONG:
            why = "the provider asked for it, with" if event.named else "the provider refuses, with"
            self._note(event, f"nothing is sent for {duration(event.wait)}: {why} a {event.reason}")

    def _went_down(self, event: ProviderDown) -> None:
        self.outages += 1
        self._down_since = anyio.current_time()
        then = "; one at a time looks whether it is back" if self._waits else ""
        text = f"the provider is down: {count(event.failures, 'request')} in a row without an answer"
        last = f"the last a {event.reason}{f' ({event.message})' if event.message else ''}"
        self._said_down = self._note(event, f"{text}, {last}{then}")

    def _came_back(self, event: ProviderUp) -> None:
        self._down_since = None
        self._down_seconds += event.seconds
        if self._said_down:
            self._say(f"the provider is back after {duration(event.seconds)}")

    def _what_then(self) -> str:
        return "others wait until more are answered" if self._waits else "others are not tried again"

    def _note(self, event: QuotaEvent, text: str) -> bool:
        """Say `text` unless something like it was said a moment ago; return whether it was."""
        now, kind = anyio.current_time(), type(event)
        if now < self._said.get(kind, -math.inf) + _SELDOM:
            return False
        self._said[kind] = now
        self._say(text)
        return True

    def end(self) -> None:
        """Note the end of the job: a pause or outage that goes on is counted up to here."""
        now = anyio.current_time()
        self._quiet_seconds -= max(0.0, self._quiet_until - now)
        if self._down_since is not None:
            self._down_seconds += now - self._down_since

    def words(self) -> list[str]:
        """Return the phrases for the summary."""
        words: list[str] = []
        if self.pauses:
            words.append(f"cool-downs: {self.pauses:,}, {duration(self._quiet_seconds)} in all")
        if self.outages:
            words.append(f"outages: {self.outages:,}, {duration(self._down_seconds)} in all")
        if self.concurrency is not None:
            words.append(f"auto settled at {self.concurrency:,} requests in flight")
        return words
