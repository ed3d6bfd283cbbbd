"""The token bucket: requests, or tokens, per minute or day, refilled continuously."""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

__all__ = ["MINUTE", "SECONDS", "Period", "TokenBucket", "Unit", "limit_name"]

Unit: TypeAlias = Literal["requests", "tokens"]
Period: TypeAlias = Literal["minute", "day"]

MINUTE: Final = 60.0
SECONDS: Final[dict[Period, float]] = {"minute": MINUTE, "day": 86_400.0}

_NEARLY: Final = 1e-6
"""The rounding error of sums of floats."""
_LATE: Final = 0.1
"""Seconds by which a timer may be late without a loss: the refill of that time is not cut off at the
capacity, so that a bucket of 1 at 200 a second gives 200 a second."""


def limit_name(unit: Unit, period: Period) -> str:
    """Return the name of a limit, such as `requests_per_minute`."""
    return f"{unit}_per_{period}"


class TokenBucket:
    """Hold the level of one limit; it is below 0 while there is debt.

    Invariant: the level grows by `rate` a second, never above the capacity less the outstanding amount
    (lateness aside), and every charge lowers it at once. Times are seconds on the clock that all event loops
    have in common.

    Args:
        unit: requests or tokens.
        period: the period of the limit.
        rate: refill per second.
        capacity: the highest level.
        level: the level at first; full if `None`.
        stock: how much more the provider's bucket may hold, which is not known. It is used up, as fast as
            the limit refills, while requests wait, until a refusal shows that there is none.
        now: the time.

    Attributes:
        reserve: an amount that is left in it: requests do not arrive as evenly as they are sent.
        outstanding: the amount charged here and not yet by the provider, which charges answers when they are
            made. The provider's level is higher by this amount, which has to fit in the end.
        weight: the share of the outstanding amount that has to fit, 0 to 1. With all of it the provider's
            bucket would stay full where it is small, and the refill of a full bucket is lost.
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
        """Refill.

        Args:
            now: the time.
            wanted: whether requests wait for it.
            late: seconds since which the first of them could have been sent.
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

        An amount above the capacity fits when the bucket is full, and leaves a debt.
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
        """Take `amount` out; a negative amount is put back."""
        self.level = min(self.level - amount, self.capacity)

    def exhausted(self, amount: float, wait: float) -> None:
        """Record a refusal: `amount` did not fit, and will in `wait` seconds at the soonest."""
        self.stock = 0.0
        self.level = min(self.level, amount - wait * self.rate)

    def trust(self) -> None:
        """Use the stock at once: the provider tells the state of its own bucket."""
        if self.stock:
            self.capacity += self.stock
            self.level += self.stock
            self.stock = 0.0

    @property
    def limit(self) -> float:
        """The amount per period."""
        return self.rate * SECONDS[self.period]

    @property
    def used(self) -> float:
        """The share that is used up, 0 to 1."""
        return min(1.0, max(0.0, 1.0 - self.level / self.capacity)) if self.capacity > 0 else math.nan
