"""A bucket that refills continuously: so many requests, or tokens, a minute or a day."""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

__all__ = ["MINUTE", "SECONDS", "Period", "TokenBucket", "Unit"]

Unit: TypeAlias = Literal["requests", "tokens"]
Period: TypeAlias = Literal["minute", "day"]

MINUTE: Final = 60.0
SECONDS: Final[dict[Period, float]] = {"minute": MINUTE, "day": 86_400.0}

_NEARLY: Final = 1e-6
"""Sums of floats end a little beside the number they stand for."""
_LATE: Final = 0.1
"""Seconds by which a timer may be late without costing anything: what came in meanwhile is not cut off
at the capacity, so that a bucket of 1 at 200 a second gives 200 a second."""


class TokenBucket:
    """Hold what is left of one limit; what is left is below 0 while there is debt.

    Times are seconds on the clock that all event loops have in common.

    Args:
        unit: what is counted.
        period: the time that the limit is for.
        rate: how much comes in a second.
        capacity: how much it holds.
        level: how much is in it; full if `None`.
        stock: how much the other side's bucket may hold beyond that, which nobody knows. It is used up,
            as fast as the limit refills, while requests wait, until a refusal shows that there is none.
        now: the time.

    Attributes:
        reserve: what stays in it, for requests do not arrive as evenly as they are sent.
        outstanding: what was charged here and not yet over there, where answers are charged when they are
            made; over there is so much more, and it is that which has to fit.
        weight: how much of what is outstanding has to fit, 0 to 1. All of it would keep a small bucket
            full over there, and of a full bucket what comes in is lost.
    """

    __slots__ = (
        "at",
        "capacity",
        "level",
        "outstanding",
        "period",
        "rate",
        "reserve",
        "stock",
        "unit",
        "weight",
    )

    def __init__(
        self,
        unit: Unit,
        period: Period,
        *,
        rate: float,
        capacity: float,
        now: float,
        level: float | None = None,
        stock: float = 0.0,
    ) -> None:
        self.unit: Unit = unit
        self.period: Period = period
        self.rate: float = rate
        self.capacity: float = capacity
        self.level: float = capacity if level is None else level
        self.stock: float = stock
        self.reserve: float = 0.0
        self.outstanding: float = 0.0
        self.weight: float = 1.0
        self.at: float = now

    def advance(self, now: float, *, wanted: bool = False, late: float = 0.0) -> None:
        """Let the time pass.

        Args:
            now: until then.
            wanted: requests wait for it.
            late: seconds for which one that waits could have been let through already.
        """
        passed = now - self.at
        if passed <= 0:
            return
        self.at = now
        gained = passed * self.rate
        if wanted and self.stock:
            extra = min(self.stock, gained)
            self.stock -= extra
            self.capacity += extra
            gained += extra
        most = self.capacity - self.outstanding + self.rate * min(late, _LATE)
        self.level = max(self.level, min(self.level + gained, most))

    def wait_for(self, amount: float) -> float:
        """Return the seconds until `amount` fits, 0 if it does; infinity if answers have to come first.

        What is more than the bucket can hold goes when it is full, and leaves a debt.
        """
        needed = min(amount + self.reserve, self.capacity)
        lacks = needed - self.level - (1 - self.weight) * self.outstanding
        if lacks <= _NEARLY:
            return 0.0
        most = self.capacity + self.stock - self.weight * self.outstanding
        if self.outstanding > 0 and needed > most + _NEARLY:
            return math.inf
        if self.stock:
            return max(lacks / (2 * self.rate), (lacks - self.stock) / self.rate)
        return lacks / self.rate

    def charge(self, amount: float) -> None:
        """Take `amount` out; what is below 0 is given back."""
        self.level = min(self.level - amount, self.capacity)

    def exhausted(self, amount: float, wait: float) -> None:
        """Note a refusal: `amount` did not fit, and will in `wait` seconds at the soonest."""
        self.stock = 0.0
        self.level = min(self.level, amount - wait * self.rate)

    def trust(self) -> None:
        """Note that somebody else watches how much the other side's bucket holds: have all of it at once."""
        if self.stock:
            self.capacity += self.stock
            self.level += self.stock
            self.stock = 0.0

    @property
    def limit(self) -> float:
        """What the rate comes to in its period."""
        return self.rate * SECONDS[self.period]

    @property
    def used(self) -> float:
        """The share that is not left, 0 to 1."""
        return min(1.0, max(0.0, 1.0 - self.level / self.capacity)) if self.capacity > 0 else math.nan
