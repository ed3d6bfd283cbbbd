"""What a run may spend: tokens, or money by prices that the user gives."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from batchrt.errors import SpendingLimitError
from batchrt.messages import Usage
from batchrt.prices import Price, check_prices
from batchrt.runtime.loops import Signal

if TYPE_CHECKING:
    from batchrt.config import RunConfig

__all__ = ["Reservation", "Spending"]

_GUESSED: Final = 4
"""Requests under way while nobody knows what answers cost: the first one says it for the others."""


class Holder(Protocol):
    """Hold a slot, and be able to wait without it."""

    def hold(self) -> None:
        """Give it up to wait."""

    def release(self) -> None:
        """Note that the wait is over."""


class Reservation:
    """What one request is expected to spend, until it is known."""

    __slots__ = ("above", "cost", "model", "price", "tokens")

    def __init__(self, tokens: float, cost: float, price: Price | None, model: str) -> None:
        self.tokens: float = tokens
        self.cost: float = cost
        self.price: Price | None = price
        self.model: str = model
        self.above: Reservation | None = None


class Spending:
    """Keep a run within its limits; safe to use from any event loop and thread.

    What requests under way are expected to cost is set aside. Who does not fit beside that waits until it
    is settled, and who does not fit even then ends the run: nothing more is sent, what is under way is
    finished, for it is paid.

    Args:
        max_tokens: tokens that may be spent; `None` for no limit.
        max_cost: what may be spent, in the prices' currency; `None` for no limit.
        prices: of a model each, or of all.
        above: of the run that this is nested in, whose limits hold too.

    Attributes:
        tokens: how many were spent.
        cost: what was spent, as far as there are prices.
    """

    def __init__(
        self,
        max_tokens: int | None,
        max_cost: float | None,
        prices: Price | Mapping[str, Price] | None,
        above: Spending | None = None,
    ) -> None:
        self.tokens: float = 0.0
        self.cost: float = 0.0
        self._ended: SpendingLimitError | None = None
        self._max_tokens = math.inf if max_tokens is None else max_tokens
        self._max_cost = math.inf if max_cost is None else max_cost
        self._prices = prices
        self._above = above
        self._lock = threading.Lock()
        self._tokens_aside = 0.0
        self._cost_aside = 0.0
        self._under_way = 0
        self._waiting: deque[Signal] = deque()
        # By model: what answers would have cost at the full price, and what they did cost. Caches and tiers
        # make the difference, and nobody knows it beforehand.
        self._billed: dict[str, tuple[float, float]] = {}

    @classmethod
    def of(cls, config: RunConfig, above: Spending | None) -> Spending | None:
        """Return what `config` allows, within what is allowed `above`; `None` for no limit."""
        tokens, cost, prices = config.get("max_tokens_total"), config.get("max_cost"), config.get("prices")
        if tokens is None and cost is None:
            return above
        check_prices(cost, prices)
        return cls(tokens, cost, prices, above)

    @property
    def ended(self) -> SpendingLimitError | None:
        """Why nothing more is sent; `None` as long as there is enough, here and above."""
        if self._ended is None and self._above is not None:
            return self._above.ended
        return self._ended

    async def reserve(
        self, model: str, expect: Callable[[], tuple[float, float, bool]], strand: Holder
    ) -> Reservation:
        """Set aside what a request is expected to cost; wait without a slot for others if that is too much.

        Args:
            model: the model's name.
            expect: says what it is expected to cost as things stand: tokens in, tokens out, and whether
                that is more than a guess.
            strand: whose request it is.

        Raises:
            SpendingLimitError: the limit is reached.
            ValueError: there is a limit in money, and no price for `model`.
        """
        price = self._price(model)
        came_now = True
        while True:
            taken, given, known = expect()
            cost = 0.0 if price is None else price.of(taken, given) * self._share(model)
            reservation = Reservation(taken + given, cost, price, model)
            with self._lock:
                ended = self.ended
                if ended is not None:
                    raise ended.again()
                turn = not (came_now and self._waiting) and (known or self._under_way < _GUESSED)
                if turn and self._fits(reservation):
                    self._put_aside(reservation, 1)
                    break
                if not self._under_way:
                    self._ended = self._limit_reached(reservation)
                    self._wake_all()
                    raise self._ended.again()
                signal = Signal()
                self._waiting.append(signal)
            came_now = False
            strand.hold()
            try:
                await signal.wait()
            finally:
                strand.release()
        if self._above is not None:
            try:
                reservation.above = await self._above.reserve(model, expect, strand)
            except BaseException:
                self._close(reservation, 0.0, 0.0)
                raise
        return reservation

    def _share(self, model: str) -> float:
        """Return what part of the full price answers of `model` cost so far."""
        full, cost = self._billed.get(model, (0.0, 0.0))
        return cost / full if full else 1.0

    def _price(self, model: str) -> Price | None:
        prices = self._prices
        price = prices.get(model) if isinstance(prices, Mapping) else prices
        if price is None and self._max_cost < math.inf:
            known = ", ".join(map(repr, prices)) if isinstance(prices, Mapping) else ""
            raise ValueError(f"max_cost needs a price for the model {model!r}; prices has {known or 'none'}")
        return price

    def _fits(self, reservation: Reservation) -> bool:
        # What is under way was set aside by what was known then, and is worth what is known now.
        tokens_aside = max(self._tokens_aside, self._under_way * reservation.tokens)
        cost_aside = max(self._cost_aside, self._under_way * reservation.cost)
        tokens = self.tokens + tokens_aside + reservation.tokens
        cost = self.cost + cost_aside + reservation.cost
        return tokens <= self._max_tokens and cost <= self._max_cost

    def _put_aside(self, reservation: Reservation, sign: int) -> None:
        self._tokens_aside += sign * reservation.tokens
        self._cost_aside += sign * reservation.cost
        self._under_way += sign

    def _limit_reached(self, reservation: Reservation) -> SpendingLimitError:
        if self.tokens + reservation.tokens > self._max_tokens:
            limit, most = "max_tokens_total", f"{self._max_tokens:,}"
            spent = f"{self.tokens:,.0f} were spent, and the next request may take {reservation.tokens:,.0f}"
        else:
            limit, most = "max_cost", f"{self._max_cost:g}"
            spent = f"{self.cost:.4g} was spent, and the next request may cost {reservation.cost:.4g}"
        hint = "" if self.tokens else "; if answers are shorter than that, say so with max_tokens"
        return SpendingLimitError(
            f"the run's {limit} of {most} is reached: {spent}; nothing more was sent{hint}",
            limit=limit,
            tokens=round(self.tokens),
            cost=self.cost,
        )

    def settle(self, reservation: Reservation, usage: Usage | None) -> None:
        """Note what a request was billed; `None` if that is not known."""
        if usage is None:
            tokens, cost = reservation.tokens, reservation.cost
        else:
            tokens = float(usage.total_tokens)
            cost = self._cost_of(usage, reservation)
        self._close(reservation, tokens, cost)
        if self._above is not None and reservation.above is not None:
            self._above.settle(reservation.above, usage)

    def _cost_of(self, usage: Usage, reservation: Reservation) -> float:
        price = reservation.price
        if price is None:
            return 0.0
        cost = price.of(
            usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.service_tier
        )
        full = price.of(usage.input_tokens, usage.output_tokens)
        with self._lock:
            before = self._billed.get(reservation.model, (0.0, 0.0))
            self._billed[reservation.model] = (before[0] + full, before[1] + cost)
        return cost

    def release(self, reservation: Reservation) -> None:
        """Note that a request was not billed."""
        self.settle(reservation, Usage())

    def _close(self, reservation: Reservation, tokens: float, cost: float) -> None:
        with self._lock:
            self._put_aside(reservation, -1)
            self.tokens += tokens
            self.cost += cost
            self._wake_all()

    def _wake_all(self) -> None:
        # All of them: the first may not fit where another does, and they are as many as there are slots.
        while self._waiting:
            self._waiting.popleft().set()
