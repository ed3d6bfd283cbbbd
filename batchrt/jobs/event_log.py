"""The event log of a run: what its quotas announced, put together and kept in the journal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from batchrt.errors import JournalError
from batchrt.jobs.journal import Journal
from batchrt.jobs.journal_reader import RecordedEvent
from batchrt.limits.events import CooledDown, ProviderDown, ProviderUp, QuotaEvent, Retried

__all__ = ["ROWS_OF_ONE_WIDTH", "EventLog"]

ROWS_OF_ONE_WIDTH: Final = 1000
"""Events that are written before the width of one, a second at first, doubles: a run of a year with a retry
each second has 25 times as many."""


class _Open:
    """An event that later ones may be added to."""

    __slots__ = ("event", "number", "written")

    def __init__(self, number: int, event: RecordedEvent) -> None:
        self.number = number
        self.event = event
        self.written: RecordedEvent | None = None


class EventLog:
    """Record retries, cool-downs and outages. May be told of events on any thread.

    Retries for one reason are added to the event before while that is shorter than a width; a cool-down is
    added to the one before unless more than a width lies between them. The width begins at a second and
    doubles with each `ROWS_OF_ONE_WIDTH` events, so the number of events grows with the logarithm of time.
    Events are written as they begin and as they are superseded, so that a killed run loses counts at most.

    Args:
        journal: written to.
        wall: returns seconds since 1970.
    """

    def __init__(self, journal: Journal, wall: Callable[[], float]) -> None:
        self._journal = journal
        self._wall = wall
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], _Open] = {}
        self._first = self._last = journal.last_event()
        self._width = 1.0

    def note(self, event: QuotaEvent) -> None:
        """Take an event of a quota; those of other kinds are not recorded."""
        now = self._wall()
        with self._lock, suppress(JournalError):  # the run raises it
            match event:
                case Retried(reason=reason):
                    self._add(RecordedEvent("retry", now, now, 1, reason))
                case CooledDown(wait=wait, reason=reason):
                    self._add(RecordedEvent("cool-down", now, now + wait, 1, reason))
                case ProviderDown(reason=reason, message=message):
                    text = f"{reason}: {message}" if message else reason
                    self._add(RecordedEvent("outage", now, now, 1, text))
                case ProviderUp():
                    self._end_outages(now)
                case _:
                    pass

    def end(self) -> None:
        """Write all that is not written yet; outages that go on have lasted until now."""
        with self._lock, suppress(JournalError):
            self._end_outages(self._wall())
            for key in list(self._open):
                self._close(key)

    def _add(self, event: RecordedEvent) -> None:
        key = (event.kind, event.reason)
        known = self._open.get(key)
        if known is not None and self._belongs(known.event, event):
            before = known.event
            number, ended = before.number + event.number, max(before.ended, event.ended)
            known.event = before._replace(number=number, ended=ended)
            return
        self._close(key)
        self._last += 1
        self._width = 2.0 ** ((self._last - self._first) // ROWS_OF_ONE_WIDTH)
        self._open[key] = opened = _Open(self._last, event)
        self._write(opened)

    def _belongs(self, before: RecordedEvent, event: RecordedEvent) -> bool:
        if event.kind == "retry":
            return event.began < before.began + self._width
        return event.kind == "cool-down" and event.began <= before.ended + self._width

    def _end_outages(self, now: float) -> None:
        for key, opened in list(self._open.items()):
            if opened.event.kind == "outage":
                opened.event = opened.event._replace(ended=now)
                self._close(key)

    def _close(self, key: tuple[str, str]) -> None:
        opened = self._open.pop(key, None)
        if opened is not None and opened.event != opened.written:
            self._write(opened)

    def _write(self, opened: _Open) -> None:
        opened.written = opened.event
        self._journal.put_event(opened.number, opened.event)
