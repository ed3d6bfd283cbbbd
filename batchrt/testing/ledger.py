"""Each valid request for a model in a few numbers, and each wait that was asked for: for a verdict."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["ACCEPTED", "CROWDED", "FULL", "NOISE", "OUTAGE", "REJECTED", "Ledger", "Sent", "Wait"]

ACCEPTED: Final = 0
FULL: Final = 1
OUTAGE: Final = 2
NOISE: Final = 3
CROWDED: Final = 4
"""By the limit of parallel requests of its quota."""
REJECTED: Final = 5
"""By the first bucket of its quota; 6 by the second, and so on."""


# Each may change its buckets twice, and those remember a million changes.
_KEPT = 250_000


class Sent(NamedTuple):
    """Hold one request: when it came to which quota, its outcome, attempt, and tokens."""

    second: float
    quota: int
    outcome: int
    attempt: int
    reserved: float
    spent: float


class Wait(NamedTuple):
    """Hold one wait: who asked when, and until when."""

    quota: int
    asked: float
    until: float


class Ledger:
    """Remember the newest `keep` requests at least, twice as many at most; some 40 bytes each."""

    __slots__ = (
        "_attempts",
        "_dropped",
        "_keep",
        "_outcomes",
        "_quotas",
        "_reserved",
        "_seconds",
        "_spent",
        "_waits",
    )

    def __init__(self, keep: int = _KEPT) -> None:
        self._keep = keep
        self._seconds = array("d")
        self._quotas = array("L")
        self._outcomes = array("B")
        self._attempts = array("L")
        self._reserved = array("d")
        self._spent = array("d")
        self._dropped = 0
        self._waits: list[Wait] = []

    def note(
        self, second: float, quota: int, outcome: int, attempt: int, *, reserved: float, spent: float
    ) -> int:
        """Add a request, as `Sent` has it; give its number."""
        seconds = self._seconds
        if len(seconds) >= 2 * self._keep:
            self._drop()
        seconds.append(second)
        self._quotas.append(quota)
        self._outcomes.append(outcome)
        self._attempts.append(attempt)
        self._reserved.append(reserved)
        self._spent.append(spent)
        return self._dropped + len(seconds) - 1

    def _drop(self) -> None:
        columns = (
            self._seconds,
            self._quotas,
            self._outcomes,
            self._attempts,
            self._reserved,
            self._spent,
        )
        for column in columns:
            del column[: self._keep]
        self._dropped += self._keep
        self._waits = [wait for wait in self._waits if wait.until >= self._seconds[0]]

    def settle(self, number: int, spent: float) -> None:
        """Note what a request cost in the end."""
        if number >= self._dropped:
            self._spent[number - self._dropped] = spent

    def ask(self, wait: Wait) -> None:
        """Add a wait."""
        self._waits.append(wait)

    def sent(self) -> Iterator[Sent]:
        """Give the requests in the order of their arrival."""
        columns = zip(
            self._seconds,
            self._quotas,
            self._outcomes,
            self._attempts,
            self._reserved,
            self._spent,
            strict=True,
        )
        return map(Sent._make, columns)

    def waits(self) -> list[Wait]:
        """Give the waits in the order in which they were asked for."""
        return list(self._waits)
