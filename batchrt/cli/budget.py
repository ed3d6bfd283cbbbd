"""The budget of a job: its limits of tokens and money, and how much of them is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from batchrt import DeadlineExceededError, Price, RunConfig, RunStatistics, SpendingLimitError
from batchrt.cli.console import money, short
from batchrt.cli.errors import UsageError
from batchrt.cli.options import JobSettings, check_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrt.cli.counts import Counts

__all__ = ["Budget", "LimitedRun"]


class LimitedRun(Protocol):
    """A run that may end at a limit."""

    @property
    def ended(self) -> SpendingLimitError | DeadlineExceededError | None:
        """The error of the limit at which it ended; `None` if it did not."""

    def statistics(self) -> RunStatistics:
        """Return the counts so far."""

    def stop(self) -> None:
        """Let requests in flight finish, and begin no more."""


class Budget:
    """Hold a job's limits of spending, and report how much its run has spent.

    Args:
        max_tokens: tokens that may be spent; `None` for no limit.
        max_cost: money that may be spent, in the price's currency; `None` for no limit.
        price: the model's; needed for `max_cost`.
        lacking: the options that would say the rest of it.

    Attributes:
        run: the run whose spending is limited, once it is known.
    """

    def __init__(
        self,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        price: Price | None = None,
        *,
        lacking: Sequence[str] = (),
    ) -> None:
        self._max_tokens = max_tokens
        self._max_cost = max_cost
        self._price = price
        self._lacking = lacking
        self.run: LimitedRun | None = None

    @classmethod
    def of(cls, settings: JobSettings, *, answers: bool) -> Budget:
        """Return the budget of `settings`; with `answers`, output tokens have a price too.

        Raises:
            UsageError: a limit or a price makes no sense, or there is no price for a limit.
        """
        cost = settings.max_cost
        check_number(settings, "max_cost", above_0=True)
        check_number(settings, "price_input")
        check_number(settings, "price_output")
        prices = {"--price-input": settings.price_input}
        if answers:
            prices["--price-output"] = settings.price_output
        if cost is not None and None in prices.values():
            raise UsageError(f"--max-cost needs {' and '.join(prices)}, in money per million tokens")
        if not any(value is not None for value in prices.values()):
            return cls(settings.max_tokens_total, cost)
        price = Price(settings.price_input or 0.0, settings.price_output or 0.0)
        lacking = [option for option, value in prices.items() if value is None]
        return cls(settings.max_tokens_total, cost, price, lacking=lacking)

    def limit(self, config: RunConfig) -> RunConfig:
        """Return `config` with the limits."""
        if self._max_tokens is not None:
            config = {**config, "max_tokens_total": self._max_tokens}
        if self._max_cost is not None:
            config = {**config, "max_cost": self._max_cost, "prices": self._price}
        return config

    def priced(self, config: RunConfig) -> RunConfig:
        """Return `config` with the prices, by which outcomes have a cost."""
        return config if self._price is None or self._lacking else {**config, "prices": self._price}

    @property
    def ended(self) -> SpendingLimitError | None:
        """The error of the limit at which the run ended; `None` if it did not."""
        ended = None if self.run is None else self.run.ended
        return ended if isinstance(ended, SpendingLimitError) else None

    def words(self) -> list[str]:
        """Return how much was spent, of how much, for each limit there is."""
        if self._max_cost is None and self._max_tokens is None:
            return []
        told = RunStatistics() if self.run is None else self.run.statistics()
        words: list[str] = []
        if self._max_cost is not None:
            words.append(f"{money(told.cost or 0.0)} of {money(self._max_cost)} spent")
        if self._max_tokens is not None:
            words.append(f"{short(round(told.tokens or 0.0))} of {short(self._max_tokens)} tokens spent")
        return words

    def cost_of(self, counts: Counts) -> str:
        """Return the cost of the tokens, in words; an empty string if there is no price."""
        if self._price is None:
            return ""
        cost = self._price.of(counts.estimated_tokens, 0)
        for tier, (given, taken, cached) in counts.billed.items():
            cost += self._price.of(given, taken, cached, tier)
        about = "about " if counts.estimated_tokens else ""
        rest = f" (without what {' and '.join(self._lacking)} would tell)" if self._lacking else ""
        return f"cost: {about}{money(cost)}{rest}"

    def verdict(self) -> str:
        """Return the limit that was reached and the amount spent; only if the run ended at one."""
        error, told = self.ended, self.run and self.run.statistics()
        assert error is not None
        assert told
        if error.limit == "max_cost":
            limit, spent = f"--max-cost {self._max_cost:g}", money(told.cost or 0.0)
            first = f"may cost {money(error.expected)}"
        else:
            limit, spent = f"--max-tokens-total {self._max_tokens}", f"{round(told.tokens or 0.0):,} tokens"
            first = f"may take {round(error.expected):,} tokens"
        return (
            f"{limit}: {spent} spent"
            if told.tokens
            else f"{limit}: nothing was sent, as the first request {first}"
        )
