"""Spending limits of a run: tokens, or money by prices that the user gives.

Invariant: the tokens that were spent, and those set aside for requests under way, stay within the limit, up
to the error of the estimates; each amount set aside is settled once. A request that does not fit waits only
while others are under way, whose end wakes it; with none under way the run ends. Prior art: reserve and
settle, as in card payments.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from batchrt.errors import BatchError, SpendingLimitError
from batchrt.messages import Usage
from batchrt.prices import Price, check_prices
from batchrt.runtime.blocked_loops import Blockades, all_blocked, blocked_error, is_blocking
from batchrt.runtime.event_loop import LoopHandle, Signal
from batchrt.runtime.slot_holder import SlotHolder

if TYPE_CHECKING:
    from batchrt.config import RunConfig

__all__ = ["Expect", "Holder", "Payer", "Reservation", "Spending", "SpendingBusyError", "reserve"]

_GUESSED: Final = 4
"""Requests under way while the cost of answers is unknown: the first answer tells it for the others."""
_NEARLY: Final = 1e-9
"""The relative error of sums of shares: a limit that is met exactly is not exceeded."""

_serial: Final = count()

Expect: TypeAlias = Callable[[], tuple[float, float, bool]]


class _Run(Protocol):
    @property
    def loop(self) -> LoopHandle | None: ...

    @property
    def blockades(self) -> Blockades: ...


class Holder(SlotHolder, Protocol):
    """A slot holder of a run."""

    @property
    def run(self) -> _Run:
        """The run it belongs to."""


class Payer(Protocol):
    """Pay for requests: one run, with those that it is nested in, or several that share a list."""

    @property
    def shares(self) -> Sequence[tuple[Spending, float]]:
        """The budgets that a request is charged to, and which share of it: nested ones before outer ones."""

    @property
    def waits(self) -> bool:
        """Whether a reservation waits for requests under way if it does not fit beside them."""

    @property
    def ended(self) -> SpendingLimitError | None:
        """Why nothing more is sent; `None` as long as there is enough in each budget."""

    async def reserve(self, model: str, expect: Expect, strand: Holder) -> Reservation:
        """Set aside the expected cost of a request; see `Spending.reserve`."""

    def refused(self, spending: Spending, error: Exception) -> None:
        """Be told that a request is not sent because of one of the budgets."""


class SpendingBusyError(BatchError):
    """Say that a request does not fit beside those under way, for a payer that does not wait."""


class Reservation:
    """The expected spending of one request, until it is known."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[tuple[Spending, _Aside]] = []

    def add(self, spending: Spending, aside: _Aside) -> None:
        """Record an amount set aside of one budget."""
        self._parts.append((spending, aside))

    def settle(self, usage: Usage | None) -> None:
        """Charge each budget its share of the request's bill; `None` if that is not known."""
        for spending, aside in self._parts:
            spending._settle(aside, usage)
        self._parts.clear()


class _Aside:
    """A share of the expected spending of one request, set aside of one budget.

    Attributes:
        loop: where the request runs, whose answer settles this.
    """

    __slots__ = ("cost", "loop", "model", "price", "share", "tokens")

    def __init__(self, share: float, loop: LoopHandle | None, model: str) -> None:
        self.share: float = share
        self.model: str = model
        self.loop: LoopHandle | None = loop
        self.tokens: float = 0.0
        self.cost: float = 0.0
        self.price: Price | None = None


class _Waiter:
    """A request that does not fit beside those under way."""

    __slots__ = ("blockades", "error", "signal")

    def __init__(self, blockades: Blockades) -> None:
        self.signal = Signal()
        self.blockades = blockades
        self.error: BatchError | None = None


class Spending:
    """Keep a run within its limits; safe to use from any event loop and thread.

    The expected cost of requests under way is set aside. A request that does not fit beside that waits until
    it is settled, and one that does not fit even then ends the run: no more is sent, requests under way are
    finished, for it is paid.

    A request is charged to its run's budget and to those of the runs around it. Budgets are reserved in one
    order, the youngest first, so that no two requests wait for each other.

    Args:
        max_tokens: tokens that may be spent; `None` for no limit.
        max_cost: money that may be spent, in the prices' currency; `None` for no limit.
        prices: of a model each, or of all.
        above: of the run that this is nested in, whose limits hold too.

    Attributes:
        tokens: how many were spent.
        cost: money that was spent, as far as there are prices.
    """

    def __init__(
        self,
        max_tokens: int | None,
        max_cost: float | None,
        prices: Price | Mapping[str, Price] | None,
        above: Payer | None = None,
    ) -> None:
        self.tokens: float = 0.0
        self.cost: float = 0.0
        self.serial: int = next(_serial)
        self.shares: Sequence[tuple[Spending, float]] = (
            (self, 1.0),
            *(() if above is None else above.shares),
        )
        self.waits: bool = above is None or above.waits
        self._ended: SpendingLimitError | None = None
        self._max_tokens = math.inf if max_tokens is None else max_tokens
        self._max_cost = math.inf if max_cost is None else max_cost
        self._prices = prices
        self._above = above
        # Taken again by its thread where a finalizer that the garbage collector calls settles a request. Each
        # critical section allows that between any two statements: one that is interrupted reads anew.
        self._lock = threading.RLock()
        self._tokens_aside = 0.0
        self._cost_aside = 0.0
        self._asides: set[_Aside] = set()
        self._waiting: deque[_Waiter] = deque()
        # By model: the cost of answers at the full price, and their real cost. Caches and tiers
        # make the difference, which is not known beforehand.
        self._billed: dict[str, tuple[float, float]] = {}

    @classmethod
    def of(cls, config: RunConfig, above: Payer | None) -> Payer | None:
        """Return the budget of `config`, within that of `above`; `None` for no limit."""
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

    @property
    def _under_way(self) -> int:
        return len(self._asides)

    async def reserve(self, model: str, expect: Expect, strand: Holder) -> Reservation:
        """Set aside the expected cost of a request; wait without a slot for others if that is too much.

        Args:
            model: the model's name.
            expect: returns the expected cost as things stand: tokens in, tokens out, and whether
                that is more than a guess.
            strand: whose request it is.

        Raises:
            SpendingLimitError: the limit is reached.
            BlockedEventLoopError: the requests to wait for are on an event loop that waits for this call.
            ValueError: there is a limit in money, and no price for `model`.
        """
        return await reserve(self, model, expect, strand)

    def refused(self, spending: Spending, error: Exception) -> None:
        """Pass on that a request is not sent because of one of the budgets."""
        if self._above is not None:
            self._above.refused(spending, error)

    async def _reserve(
        self, share: float, model: str, expect: Expect, strand: Holder, *, wait: bool
    ) -> _Aside:
        """Set aside a share of the expected cost of a request, of this budget alone."""
        aside = _Aside(share, strand.run.loop, model)
        aside.price = self._price(model)
        came_now = True
        while True:
            taken, given, known = expect()
            aside.tokens = share * (taken + given)
            if aside.price is not None:
                aside.cost = share * aside.price.of(taken, given) * self._share(model)
            with self._lock:
                if self._ended is not None:
                    raise self._ended.again()
                turn = not (came_now and self._waiting) and (known or self._under_way < _GUESSED)
                if turn and self._fits(aside):
                    self._put_aside(aside)
                    return aside
                if not self._under_way:
                    self._ended = self._limit_reached(aside)
                    self._wake_all()
                    raise self._ended.again()
                if not wait:
                    raise SpendingBusyError("what is under way has to be settled first")
                waiter = _Waiter(strand.run.blockades)
                self._waiting.append(waiter)
            came_now = False
            await self._wait(waiter, strand)

    async def _wait(self, waiter: _Waiter, strand: Holder) -> None:
        """Wait until something was settled.

        Raises:
            BlockedEventLoopError: nothing can be, as long as this waits.
        """
        strand.wait_throttled()
        try:
            for blockade in waiter.blockades:
                blockade.watch(self._turn_away_blocked)
            self._turn_away_blocked()
            await waiter.signal.wait()
        finally:
            for blockade in waiter.blockades:
                blockade.unwatch(self._turn_away_blocked)
            strand.release()
        if waiter.error is not None:
            raise waiter.error

    def _turn_away_blocked(self) -> None:
        """Let those waiters go whose own call keeps all requests under way from being settled."""
        with self._lock:
            for waiter in [each for each in self._waiting if is_blocking(each.blockades)]:
                loops = [aside.loop for aside in self._asides]
                if all_blocked(loops, [each.blockades for each in self._waiting]):
                    waiter.error = blocked_error("the run's spending limit")
                    if waiter in self._waiting:
                        self._waiting.remove(waiter)
                    waiter.signal.set()

    def _share(self, model: str) -> float:
        """Return the part of the full price that answers of `model` cost so far."""
        full, cost = self._billed.get(model, (0.0, 0.0))
        return cost / full if full else 1.0

    def _price(self, model: str) -> Price | None:
        prices = self._prices
        price = prices.get(model) if isinstance(prices, Mapping) else prices
        if price is None and self._max_cost < math.inf:
            known = ", ".join(map(repr, prices)) if isinstance(prices, Mapping) else ""
            raise ValueError(f"max_cost needs a price for the model {model!r}; prices has {known or 'none'}")
        return price

    def _fits(self, aside: _Aside) -> bool:
        # Requests under way were set aside by an older estimate, and are worth the present one.
        tokens_aside = max(self._tokens_aside, self._under_way * aside.tokens)
        cost_aside = max(self._cost_aside, self._under_way * aside.cost)
        tokens = self.tokens + tokens_aside + aside.tokens
        cost = self.cost + cost_aside + aside.cost
        return not (_exceeds(tokens, self._max_tokens) or _exceeds(cost, self._max_cost))

    def _put_aside(self, aside: _Aside) -> None:
        self._tokens_aside += aside.tokens
        self._cost_aside += aside.cost
        self._asides.add(aside)

    def _limit_reached(self, aside: _Aside) -> SpendingLimitError:
        if _exceeds(self.tokens + aside.tokens, self._max_tokens):
            limit, most, expected = "max_tokens_total", f"{self._max_tokens:,}", aside.tokens
            spent = f"{self.tokens:,.0f} were spent, and the next request may take {aside.tokens:,.0f}"
        else:
            limit, most, expected = "max_cost", f"{self._max_cost:g}", aside.cost
            spent = f"{self.cost:.4g} was spent, and the next request may cost {aside.cost:.4g}"
        hint = "" if self.tokens else "; if answers are shorter than that, say so with max_tokens"
        return SpendingLimitError(
            f"the run's {limit} of {most} is reached: {spent}; nothing more was sent{hint}",
            limit=limit,
            tokens=round(self.tokens),
            cost=self.cost,
            expected=expected,
        )

    def settle(self, reservation: Reservation, usage: Usage | None) -> None:
        """Charge a request's bill; `None` if that is not known."""
        reservation.settle(usage)

    def release(self, reservation: Reservation) -> None:
        """Record that a request was not billed."""
        reservation.settle(Usage())

    def _settle(self, aside: _Aside, usage: Usage | None) -> None:
        tokens, cost = aside.tokens, aside.cost
        if usage is not None:
            tokens = aside.share * usage.total_tokens
            cost = 0.0 if aside.price is None else aside.share * aside.price.of_usage(usage)
        with self._lock:
            self._asides.discard(aside)
            if usage is not None and aside.price is not None:
                full = aside.share * aside.price.of(usage.input_tokens, usage.output_tokens)
                before = self._billed.get(aside.model, (0.0, 0.0))
                self._billed[aside.model] = (before[0] + full, before[1] + cost)
            # Whole again when nothing is under way, whatever was lost in the sums.
            self._tokens_aside = self._tokens_aside - aside.tokens if self._under_way else 0.0
            self._cost_aside = self._cost_aside - aside.cost if self._under_way else 0.0
            self.tokens += tokens
            self.cost += cost
            self._wake_all()

    def _wake_all(self) -> None:
        # All of them: the first may not fit where another does, and they are as many as there are slots.
        while self._waiting:
            self._waiting.popleft().signal.set()


async def reserve(payer: Payer, model: str, expect: Expect, strand: Holder) -> Reservation:
    """Set aside a share of the expected cost of a request of each budget of `payer`, or of none."""
    reservation = Reservation()
    try:
        for spending, share in payer.shares:
            try:
                aside = await spending._reserve(share, model, expect, strand, wait=payer.waits)
            except Exception as error:
                payer.refused(spending, error)
                raise
            reservation.add(spending, aside)
    except BaseException:
        reservation.settle(Usage())
        raise
    return reservation


def _exceeds(amount: float, limit: float) -> bool:
    return amount > limit and amount - limit > _NEARLY * limit
