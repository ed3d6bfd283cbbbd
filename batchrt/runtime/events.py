"""What a quota tells those who listen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "Admitted",
    "BudgetEmpty",
    "CooledDown",
    "Events",
    "LimitChanged",
    "Listener",
    "ProviderDown",
    "ProviderUp",
    "QuotaEvent",
    "Retried",
    "Sent",
]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that had to wait for the quota may be sent.

    Attributes:
        waited: seconds.
        tokens: what it is expected to cost.
    """

    waited: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Sent:
    """A request is sent; `in_flight` are under way, this one included."""

    in_flight: int
    tokens: float


@dataclass(frozen=True, slots=True)
class Retried:
    """A request that failed will be sent again.

    Attributes:
        reason: the error's class and status.
        wait: seconds until then, at the least.
        attempt: the number of the attempt that failed, from 1.
    """

    reason: str
    wait: float
    attempt: int


@dataclass(frozen=True, slots=True)
class CooledDown:
    """The provider asked to be left alone for `wait` seconds; nobody sends until then."""

    wait: float
    reason: str


@dataclass(frozen=True, slots=True)
class LimitChanged:
    """A limit is another one from now on.

    Attributes:
        name: `max_concurrency`, `requests_per_minute`, `tokens_per_minute`, `requests_per_day` or
            `tokens_per_day`.
        before: what it was; `None` for none that was known.
        after: what it is; `None` for none.
        reason: why.
    """

    name: str
    before: float | None
    after: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class BudgetEmpty:
    """The retry budget has less left than a retry costs; this one is not made, or waits."""

    left: float
    cost: float


@dataclass(frozen=True, slots=True)
class ProviderDown:
    """So many requests in a row had no answer; who has the patience waits, and one at a time looks.

    Attributes:
        failures: how many.
        reason: the last error's class and status.
        message: what the last error says.
    """

    failures: int
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class ProviderUp:
    """The provider answers again, after so many seconds."""

    seconds: float


QuotaEvent: TypeAlias = (
    Admitted | Sent | Retried | CooledDown | LimitChanged | BudgetEmpty | ProviderDown | ProviderUp
)

Listener: TypeAlias = Callable[[QuotaEvent], object]


class Events:
    """Tell listeners; costs nothing while there are none.

    Attributes:
        listeners: falsy if nobody listens.
    """

    __slots__ = ("listeners",)

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Have `listener` told of everything, within the block."""
        self.listeners = (*self.listeners, listener)
        try:
            yield
        finally:
            left = list(self.listeners)
            left.remove(listener)
            self.listeners = tuple(left)

    def tell(self, event: QuotaEvent) -> None:
        """Tell all; what a listener raises is logged, for the work is not to suffer from it."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                logging.getLogger("batchrt").exception("a listener failed at %r", event)
