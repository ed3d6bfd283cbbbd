"""Verdict log: each valid request for a model in a few numbers, and each wait asked for."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

__all__ = [
    "ACCEPTED",
    "NOISE",
    "OUTAGE",
    "OVER_PARALLEL",
    "QUEUE_FULL",
    "REJECTED",
    "RequestedWait",
    "SentRequest",
    "VerdictLog",
]

ACCEPTED: Final = 0
QUEUE_FULL: Final = 1
OUTAGE: Final = 2
NOISE: Final = 3
OVER_PARALLEL: Final = 4
"""Refused by the limit of parallel requests of its quota."""
REJECTED: Final = 5
"""Refused by the first bucket of its quota; 6 by the second, and so on."""


# Each request may change its buckets twice, and those keep a million changes.
_KEEP = 250_000  # requests


class SentRequest(NamedTuple):
    """One request: arrival, quota, outcome, attempt, tokens, and end.

    Attributes:
        began: when processing began, after the queue; infinity before that.
        ended: when it was over; infinity before that.
        size: how many places it takes where inputs count.
        answered: whether it was answered.
        rows: digests of the requested rows.
    """

    second: float
    quota: int
    outcome: int
    attempt: int
    reserved: float
    spent: float
    began: float
    ended: float
    size: int
    answered: bool
    rows: Sequence[int]


class RequestedWait(NamedTuple):
    """One wait: the quota, when it was asked for and until when, whether at random, and for which row."""

    quota: int
    asked: float
    until: float
    noise: bool = False
    row: int = 0


class VerdictLog:
    """Keep the newest `keep` requests at least, twice as many at most; some 70 bytes each."""

    __slots__ = (
        "_answered",
        "_began",
        "_columns",
        "_dropped",
        "_ended",
        "_inputs",
        "_keep",
        "_rows",
        "_seconds",
        "_spent",
        "_waits",
    )

    def __init__(self, keep: int = _KEEP) -> None:
        self._keep = keep
        self._seconds, self._spent, self._began, self._ended = (array("d") for _ in range(4))
        self._answered = array("B")
        quotas, outcomes, attempts, sizes = array("L"), array("B"), array("L"), array("L")
        # The fields of SentRequest, in their order, except the last.
        self._columns: tuple[array[Any], ...] = (
            *(self._seconds, quotas, outcomes, attempts, array("d"), self._spent),
            *(self._began, self._ended, sizes, self._answered),
        )
        self._rows = array("Q")
        # Of requests for several rows, or for one that may come in a list as well.
        self._inputs: dict[int, Sequence[int]] = {}
        self._dropped = 0
        self._waits: list[RequestedWait] = []

    def note(
        self,
        second: float,
        quota: int,
        outcome: int,
        attempt: int,
        *,
        reserved: float,
        spent: float,
        size: int = 1,
        row: int = 0,
        rows: Sequence[int] = (),
    ) -> int:
        """Add a request, as `SentRequest` has it; return its number.

        `row` is the requested row if there are no `rows`.
        """
        seconds, quotas, outcomes, attempts, reserves, spends, began, ended, sizes, answers = self._columns
        if len(seconds) >= 2 * self._keep:
            self._drop()
        number = self._dropped + len(seconds)
        # Unrolled: a loop over the columns takes twice the time.
        seconds.append(second)
        quotas.append(quota)
        outcomes.append(outcome)
        attempts.append(attempt)
        reserves.append(reserved)
        spends.append(spent)
        began.append(math.inf)
        ended.append(math.inf)
        sizes.append(size)
        answers.append(0)
        self._rows.append(row)
        if rows:
            self._inputs[number] = rows
        return number

    def _drop(self) -> None:
        for column in (*self._columns, self._rows):
            del column[: self._keep]
        self._dropped += self._keep
        self._inputs = {number: rows for number, rows in self._inputs.items() if number >= self._dropped}
        self._waits = [wait for wait in self._waits if wait.until >= self._seconds[0]]

    def settle(self, number: int, spent: float) -> None:
        """Record the final cost of a request."""
        if number >= self._dropped:
            self._spent[number - self._dropped] = spent

    def end(self, number: int, second: float, *, began: float, answered: bool) -> None:
        """Record that a request is over."""
        if number >= self._dropped:
            self._began[number - self._dropped] = began
            self._ended[number - self._dropped] = second
            self._answered[number - self._dropped] = answered

    def ask(self, wait: RequestedWait) -> None:
        """Add a wait."""
        self._waits.append(wait)

    def sent(self) -> Iterator[SentRequest]:
        """Yield the requests in the order of their arrival."""
        rows = (
            self._inputs.get(number, (row,)) for number, row in enumerate(self._rows, start=self._dropped)
        )
        return map(SentRequest._make, zip(*self._columns, rows, strict=True))

    def waits(self) -> list[RequestedWait]:
        """Return the waits in the order in which they were asked for."""
        return list(self._waits)
